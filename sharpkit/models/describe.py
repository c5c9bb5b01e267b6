"""What a model says about itself: its first sentence and its source, read off its docstring, and its size."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

SHAPE, CLASSES = (3, 32, 32), 10
"""What parameters are counted for."""

_WORDS = r"(?:[^.]|[.]\d|et al[.])*"


@dataclass(frozen=True)
class Description:
    """A model in a few words.

    Args:
        what: The first sentence.
        source: Authors, year and section; empty for a network of no paper.
        parameters: How many it has for images of `SHAPE` in `CLASSES` classes.
    """

    what: str
    source: str
    parameters: int


def describe(builder: Callable[[tuple[int, ...], int], nn.Module]) -> Description:
    """Return what a model's docstring says, and its number of parameters, without memory for them."""
    with torch.device("meta"):
        model = builder(SHAPE, CLASSES)
    text = " ".join((inspect.getdoc(builder) or "").split())
    source = re.search(rf"[.] ([A-Z]{_WORDS}\(\d{{4}}\){_WORDS})[.]", text)
    return Description(
        what=text.split(". ")[0].rstrip(".").removeprefix("Return "),
        source=source[1] if source else "",
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )

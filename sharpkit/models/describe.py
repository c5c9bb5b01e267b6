"""What a model says about itself: its first sentence, its source and its size, read off its docstring.

The docstring is read from the source text, so that nothing is imported or built for it; tests count the parameters.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sharpkit.models import HOMES

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


def describe(name: str) -> Description:
    """Return what the docstring of a model in `MODELS` says.

    Raises:
        ValueError: If it does not say how many parameters the model has.
    """
    module, _, function = HOMES[name].partition(":")
    text = " ".join(_docstrings(module)[function].split())
    source = re.search(rf"[.] ([A-Z]{_WORDS}\(\d{{4}}\){_WORDS})[.]", text)
    stated = re.search(r"\b([\d,]{5,}) parameters", text)
    if stated is None:
        raise ValueError(f"the docstring of {function} does not say how many parameters it has")
    return Description(
        what=text.split(". ")[0].rstrip(".").removeprefix("Return "),
        source=source[1] if source else "",
        parameters=int(stated[1].replace(",", "")),
    )


@cache
def _docstrings(module: str) -> dict[str, str]:
    """Return the docstrings of a file's functions."""
    tree = ast.parse((Path(__file__).parent / f"{module}.py").read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return {function.name: ast.get_docstring(function) or "" for function in functions}

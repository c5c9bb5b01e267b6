"""What a recipe says about itself: its first sentence, its cost and where it comes from, read off its docstring."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass

from sharpkit.core.rule import Rule
from sharpkit.recipes.grammar import parameters


@dataclass(frozen=True)
class Description:
    """A recipe in a few words.

    Args:
        what: The first sentence.
        cost: Gradients a step.
        source: Authors and year; empty for the base optimizer alone.
        settings: Every parameter with its default.
        slots: The questions that it answers itself.
    """

    what: str
    cost: str
    source: str
    settings: tuple[str, ...]
    slots: tuple[str, ...]

    @property
    def brief(self) -> str:
        """The first sentence up to its formula."""
        return self.what.partition(":")[0]


def describe(recipe: Callable[..., Rule]) -> Description:
    """Return what a recipe function's docstring, signature and rule say.

    Raises:
        ValueError: If the docstring does not say what a step costs.
    """
    text = " ".join((inspect.getdoc(recipe) or "").split())
    cost = re.search(r"Cost: ([^.,:;]*)", text)
    if cost is None:
        raise ValueError(f"the docstring of {recipe.__name__} does not say what a step costs")
    source = re.search(r"([A-Z][^.:;]*(?: et al\.)?) \((\d{4})\)", text)
    return Description(
        what=text.split(". ")[0],
        cost=cost[1].strip(),
        source=f"{source[1]} ({source[2]})" if source else "",
        settings=tuple(f"{p.name}={p.default}" for p in parameters(recipe).values() if p.default is not None),
        slots=tuple(sorted(recipe().stated())),
    )

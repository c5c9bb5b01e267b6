"""Grids of recipe strings: `ssam-f:sparsity=0.5,0.9` stands for two recipes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import product
from math import prod

from sharpkit.errors import UsageError
from sharpkit.recipes.grammar import parse, pieces

_MOST = 20_000


def expanded(text: str) -> list[str]:
    """Return the recipes that a string with lists of values stands for, the last key changing fastest.

    Raises:
        UsageError: If a list has an empty item, or the same one twice, or there are more than 20,000 recipes.
    """
    head, *assignments = pieces(text)
    values = [_each(item, text) for item in assignments]
    if (count := prod(map(len, values))) > _MOST:
        raise UsageError(f"{head} with these lists is {count} recipes, allowed are {_MOST}", "give fewer values")
    return [":".join([head, *chosen]) for chosen in product(*values)]


def _each(item: str, text: str) -> list[str]:
    key, equals, raw = item.partition("=")
    values = [value.strip() for value in raw.split(",")]
    if equals and len(values) > 1:
        if not all(values):
            raise UsageError(f"{item!r} in {text!r} has an empty value", "write for example rho=0.05,0.1")
        if len(set(values)) < len(values):
            raise UsageError(f"{item!r} in {text!r} has a value twice", "give each once")
        return [f"{key.strip()}={value}" for value in values]
    return [item]


def named(name: str, labels: Sequence[str]) -> str | None:
    """Return which of some recipe strings a name means: itself, the same recipe in other words, or the only one of that
    recipe.
    """
    if name in labels:
        return name
    text = _canonical(name)
    same = [label for label in labels if text is not None and _canonical(label) == text]
    of_recipe = [label for label in dict.fromkeys(labels) if pieces(label)[0] == name.strip()]
    return same[0] if same else of_recipe[0] if len(of_recipe) == 1 else None


def shortened(texts: Collection[str]) -> dict[str, str]:
    """Return recipes in full without the parameters that have their default in all of the same recipe."""
    short: dict[str, str] = {}
    for text in texts:
        head, *items = pieces(text)
        alike = [set(pieces(other)[1:]) for other in texts if pieces(other)[0] == head]
        usual = set(pieces(_canonical(head) or head)[1:]).intersection(*alike)
        short[text] = ":".join([head, *(item for item in items if item not in usual)])
    return short


def _canonical(text: str) -> str | None:
    try:
        return parse(text).text
    except UsageError:
        return None

"""Grids of recipe strings: `ssam-f:sparsity=0.5,0.9` stands for two recipes."""

from __future__ import annotations

from itertools import product

from sharpkit.errors import UsageError
from sharpkit.recipes.grammar import pieces


def expanded(text: str) -> list[str]:
    """Return the recipes that a string with lists of values stands for, the last key changing fastest.

    Raises:
        UsageError: If a list has an empty item, or the same one twice.
    """
    head, *assignments = pieces(text)
    return [":".join([head, *chosen]) for chosen in product(*[_each(item, text) for item in assignments])]


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


def varied(text: str) -> list[str]:
    """Return the keys that have a list of values."""
    return [item.partition("=")[0].strip() for item in pieces(text)[1:] if "," in item]

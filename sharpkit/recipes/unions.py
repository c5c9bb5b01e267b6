"""Which recipes combine."""

from __future__ import annotations

import itertools

from sharpkit.core.rule import Rule
from sharpkit.errors import ConflictError
from sharpkit.recipes import RECIPES
from sharpkit.recipes.grammar import parameters, parse


def refusals() -> dict[tuple[str, str], str]:
    """Return for every pair of recipes why their union is refused, empty where it is not."""
    return {(a, b): refusal(a, b) for a, b in itertools.combinations(RECIPES, 2)}


def refusal(a: str, b: str) -> str:
    """Return why the union of two recipes is refused, empty where it is not.

    Their radii are made equal, since one that differs is a matter of giving `rho`.
    """
    radius = ":rho=0.1" if any("rho" in parameters(RECIPES[name]) for name in (a, b)) else ""
    try:
        rule = parse(f"{a}+{b}{radius}")
    except ConflictError as error:
        return error.message
    return _unshared(rule)


def _unshared(rule: Rule) -> str:
    """Return why a rule cannot be cut into the shards that it asks for."""
    if (rule.shards or 1) > 1 and "whole_batch" in rule.needs():
        return f"{rule.name} looks at the whole batch, and cuts it into shards (slot: shards)"
    return ""

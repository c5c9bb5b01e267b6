"""Empirical risk minimisation: the base optimizer without perturbation."""

from __future__ import annotations

from sharpkit.core.parts import Never
from sharpkit.core.rule import Rule


def sgd() -> Rule:
    """The base optimizer alone: u = g.

    The name is the literature's; with `--base adamw` it is AdamW. Cost: 1 gradient a step.
    """
    return Rule("sgd", gate=Never())

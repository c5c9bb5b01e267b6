"""The public optimizer: the engine's, with recipe strings."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Optimizer

from sharpkit.core import optimizer as core
from sharpkit.core.rule import Rule
from sharpkit.recipes.grammar import parse


class SharpnessAware(core.SharpnessAware):
    """Takes steps of a base optimizer with the gradient that a rule chooses.

    Args:
        model: The module that is trained.
        base: Any torch optimizer; learning-rate schedulers attach to it.
        rule: A recipe string such as `sampa+asam:rho=0.5:lam=0.2`, or a `Rule`.
        options: `loss` and the other keyword arguments of `sharpkit.core.optimizer.SharpnessAware`.

    Raises:
        UsageError: If the recipe string or an option is not allowed.
    """

    def __init__(self, model: nn.Module, base: Optimizer, rule: str | Rule, **options: Any) -> None:
        super().__init__(model, base, parse(rule) if isinstance(rule, str) else rule, **options)

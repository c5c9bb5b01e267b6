"""Adaptive sharpness-aware minimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sharpkit.core.parts import Constant
from sharpkit.core.rule import Rule
from sharpkit.core.slots import Metric
from sharpkit.core.step import Step
from sharpkit.core.vec import Vec
from sharpkit.errors import check_range

Scope = Literal["weights", "all"]


@dataclass(frozen=True)
class WeightMagnitude(Metric):
    """T = |w| + eta elementwise at the current w, the identity on tensors outside the scope.

    Args:
        eta: Added to the magnitudes, 0 or more.
        scope: `weights` is every tensor whose name contains "weight", `all` is every tensor.
    """

    eta: float
    scope: Scope

    def __post_init__(self) -> None:
        check_range("eta", self.eta, 0)

    def diagonal(self, step: Step, direction: Vec) -> list[Tensor | None]:
        """Return |w| + eta for the tensors in scope."""
        with torch.no_grad():
            return [
                p.abs().add_(self.eta) if self.scope == "all" or "weight" in name else None
                for name, p in zip(step.names, step.params, strict=True)
            ]


def asam(rho: float = 0.5, eta: float = 0.01, scope: Scope = "weights") -> Rule:
    """Measure the ball relative to the weights: epsilon = rho T^2 g / ||T g|| with T = |w| + eta.

    Kwon, Kim, Park, Choi (2021), "ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant Learning of Deep
    Neural Networks", eqs. (9)-(10) and Algorithm 1. As in the official code T acts on tensors whose name contains
    "weight" (batch norm's gamma is one) and is the identity on the rest; unlike there, batch-norm statistics change
    in the clean pass only. `scope=all` with `eta=0` is the form of a widely copied third-party port, whose best rho
    is about 2: never carry a rho from one scope to the other. Cost: 2 gradients a step.

    Args:
        rho: Radius in the metric T; 0.5 for CIFAR-10, 1.0 for CIFAR-100.
        eta: Keeps weights near zero movable.
        scope: Which tensors the metric acts on, `weights` or `all`.

    Raises:
        UsageError: If rho or eta is negative.
    """
    return Rule("asam", metric=WeightMagnitude(eta, scope), radius=Constant(rho))

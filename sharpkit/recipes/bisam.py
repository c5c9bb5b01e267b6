"""Bilevel sharpness-aware minimisation: climb a smooth stand-in for the 0-1 loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from sharpkit.core.parts import Constant
from sharpkit.core.rule import Rule
from sharpkit.core.slots import AscentLoss, Need
from sharpkit.core.task import Batch
from sharpkit.errors import UsageError, check_range

_GAMMA = math.log(math.e - 1)  # so that phi(0) = 0

_SHAPES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "tanh": lambda x, alpha: torch.tanh(alpha * x),
    "log": lambda x, _: 1 - functional.softplus(_GAMMA - x),
}


@dataclass(frozen=True)
class SmoothedErrors(AscentLoss):
    """Q_i = (1 / mu) log sum_j exp(mu phi(z_ij - z_iy)): a smooth stand-in for sample i's 0-1 loss.

    Q - log(C) / mu, with C classes, is a lower bound of the 0-1 loss, and has the same gradient.

    Args:
        shape: phi(x) is tanh(alpha x) for `tanh` and 1 - log(1 + e^(gamma - x)) with gamma = log(e - 1) for `log`.
        mu: Sharpness of the maximum over classes, above 0.
        alpha: Slope of the tanh, above 0.
    """

    shape: Literal["tanh", "log"]
    mu: float
    alpha: float = 1.0
    needs: ClassVar[frozenset[Need]] = frozenset({"batch"})

    def __post_init__(self) -> None:
        check_range("mu", self.mu, 0, open_low=True)
        check_range("alpha", self.alpha, 0, open_low=True)

    def __call__(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return Q of every sample from logits (B, C) and class numbers (B,).

        Raises:
            UsageError: If the outputs are not (B, C) or the targets not (B,).
        """
        targets = batch.targets
        if outputs.dim() != 2 or not isinstance(targets, Tensor) or targets.dim() != 1:
            raise UsageError("bisam needs logits (B, C) and class numbers (B,)", "use sam")
        margins = outputs - outputs.gather(1, targets[:, None])
        return torch.logsumexp(self.mu * _SHAPES[self.shape](margins, self.alpha), dim=1) / self.mu


def bisam_tanh(rho: float = 0.05, mu: float = 10.0, alpha: float = 0.1) -> Rule:
    """Climb a smooth stand-in for the 0-1 loss made of tanh(alpha margin): epsilon = rho grad Q / ||grad Q||.

    Xie, Latorre, Antonakopoulos, Pethick, Cevher (2024), "Improving SAM Requires Rethinking its Optimization
    Formulation", section 3 and Algorithm 1. Q_i = (1 / mu) log sum_j exp(mu tanh(alpha (z_ij - z_iy))); the step
    descends the task's own loss. The official command line passes mu = 1 to both variants, its function's default
    for this one is 10. Cost: 2 gradients a step.

    Args:
        rho: Radius, Euclidean norm over all parameters jointly.
        mu: Sharpness of the maximum over classes.
        alpha: Slope of the tanh.

    Raises:
        UsageError: If rho is negative, or mu or alpha not above 0.
    """
    return Rule("bisam-tanh", ascent_loss=SmoothedErrors("tanh", mu, alpha), radius=Constant(rho))


def bisam_log(rho: float = 0.05, mu: float = 1.0) -> Rule:
    """Climb a smooth stand-in for the 0-1 loss, 1 - log(1 + e^(gamma - margin)): epsilon = rho grad Q / ||grad Q||.

    Xie, Latorre, Antonakopoulos, Pethick, Cevher (2024), "Improving SAM Requires Rethinking its Optimization
    Formulation", section 3 and Algorithm 1. gamma = log(e - 1); the rest is as for bisam-tanh. Cost: 2 gradients a
    step.

    Args:
        rho: Radius, Euclidean norm over all parameters jointly.
        mu: Sharpness of the maximum over classes.

    Raises:
        UsageError: If rho is negative or mu not above 0.
    """
    return Rule("bisam-log", ascent_loss=SmoothedErrors("log", mu), radius=Constant(rho))

"""Sharpness-aware minimisation in the metric of the diagonal Fisher information."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sharpkit.core.parts import Constant
from sharpkit.core.rule import Rule
from sharpkit.core.slots import Metric
from sharpkit.core.step import Step
from sharpkit.core.vec import Vec
from sharpkit.errors import check_range


@dataclass(frozen=True)
class InverseFisher(Metric):
    """T = (1 + eta v^2)^(-1/2) elementwise, where v is the climbed vector.

    Args:
        eta: Weight of the squared gradient, 0 or more.
    """

    eta: float

    def __post_init__(self) -> None:
        check_range("eta", self.eta, 0)

    def diagonal(self, step: Step, direction: Vec) -> list[Tensor | None]:
        """Return T for every parameter."""
        return [v.square().mul_(self.eta).add_(1).rsqrt_() for v in direction]


def fisher_sam(rho: float = 0.1, eta: float = 1.0) -> Rule:
    """Measure the ball by the diagonal Fisher information: epsilon = rho F^-1 g / sqrt(g^T F^-1 g), F = 1 + eta g^2.

    Kim, Li, Hu, Hospedales (2022), "Fisher SAM: Information Geometry and Sharpness Aware Minimisation", eqs. (8)-(9).
    F is the squared mini-batch gradient; there is no official code, and third-party files differ: one scales epsilon
    to Euclidean length rho, another averages F over steps. With gradients of 0.01 an entry, eta = 1 changes epsilon
    by 3e-4 relative: then it is SAM in disguise. Cost: 2 gradients a step.

    Args:
        rho: Radius in the metric; the paper's gamma.
        eta: Weight of the squared gradient; 0 is SAM.

    Raises:
        UsageError: If rho or eta is negative.
    """
    return Rule("fisher-sam", metric=InverseFisher(eta), radius=Constant(rho))

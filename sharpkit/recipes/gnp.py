"""Gradient-norm penalty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from sharpkit.core import vec
from sharpkit.core.parts import Constant
from sharpkit.core.point import Point
from sharpkit.core.rule import Rule
from sharpkit.core.shape import TINY
from sharpkit.core.slots import Descent
from sharpkit.core.step import Step
from sharpkit.core.vec import Vec
from sharpkit.errors import check_range

Reference = Literal["raw", "unit"]


@dataclass(frozen=True)
class Penalised(Descent):
    """u = (1 - alpha) r + alpha h, where the reference r is g or g / ||g||.

    Args:
        alpha: Weight of the perturbed gradient, 0 or more.
        reference: `raw` is g, `unit` is g / ||g||.
    """

    alpha: float
    reference: Reference
    clean_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_range("alpha", self.alpha, 0)

    def perturbed(self, step: Step, there: Point) -> Vec:
        """Return the combination of g and h."""
        g = step.here.grad
        r = g if self.reference == "raw" else vec.scale(g, 1 / (vec.norm(g) + TINY))
        return vec.lerp(r, there.grad, self.alpha)

    def plain(self, step: Step) -> Vec:
        """Return g."""
        return step.here.grad


def gnp(rho: float = 0.1, alpha: float = 0.8, reference: Reference = "raw") -> Rule:
    """Descend the loss plus a penalty on its gradient's norm: u = (1 - alpha) g + alpha grad L(B; w + rho g / ||g||).

    It is the gradient of L + lambda ||grad L|| by a finite difference of length rho, with alpha = lambda / rho. Zhao,
    Zhang, Hu (2022), "Penalizing Gradient Norm for Efficiently Improving Generalization in Deep Learning", Algorithm 1.
    The official code has since June 2022 defaulted to g / ||g|| in place of g, which the paper does not; that is
    `reference=unit`. It also puts weight decay in the loss. Cost: 2 gradients a step.

    Args:
        rho: Radius of the finite difference, Euclidean norm over all parameters jointly; the paper's r.
        alpha: Weight of the perturbed gradient, lambda / rho; 1 is SAM, 0 the base optimizer.
        reference: The other gradient, `raw` g or `unit` g / ||g||.

    Raises:
        UsageError: If rho or alpha is negative.
    """
    return Rule("gnp", radius=Constant(rho), descent=Penalised(alpha, reference))

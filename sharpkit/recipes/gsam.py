"""Surrogate-gap guided sharpness-aware minimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sharpkit.core import vec
from sharpkit.core.parts import Constant
from sharpkit.core.point import Point
from sharpkit.core.radius import WithRate
from sharpkit.core.rule import Rule
from sharpkit.core.slots import Descent
from sharpkit.core.step import Step
from sharpkit.core.vec import Vec
from sharpkit.errors import check_range


@dataclass(frozen=True)
class ClosingTheGap(Descent):
    """u = h - alpha (g - (<g, h> / ||h||^2) h): h, less the part of g that is orthogonal to it.

    Args:
        alpha: Weight of the orthogonal part, 0 or more.
    """

    alpha: float
    clean_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_range("alpha", self.alpha, 0)

    def perturbed(self, step: Step, there: Point) -> Vec:
        """Return h - alpha g_orthogonal; g itself is taken off where h is zero."""
        g, h = step.here.grad, there.grad
        along = vec.projection(g, h)
        return vec.add(vec.scale(h, 1 + self.alpha * along), g, alpha=-self.alpha)

    def plain(self, step: Step) -> Vec:
        """Return g."""
        return step.here.grad


def gsam(rho: float = 0.1, rho_max: float | None = None, rho_min: float | None = None, alpha: float = 0.4) -> Rule:
    """Descend the perturbed loss and, orthogonal to it, the gap to the clean one: u = h - alpha g_orthogonal.

    g_orthogonal = g - (<g, h> / ||h||^2) h; the radius follows the learning rate from rho_max at its peak to rho_min
    at 0. Zhuang et al. (2022), "Surrogate Gap Minimization Improves Sharpness-Aware Training", eqs. (6)-(8) and
    Algorithm 1. The learning rate counts as a fraction of its peak, kept in [0, 1], so that a warm-up does not lead
    the radius below rho_min. The official JAX code has a second form of u, which is off there by default and not
    here at all. Cost: 2 gradients a step.

    Args:
        rho: Short for both ends of the radius, Euclidean norm over all parameters jointly.
        rho_max: Radius at the peak of the learning rate, if it is not rho.
        rho_min: Radius where the learning rate is 0, if it is not rho.
        alpha: Weight of the orthogonal part; 0 is SAM.

    Raises:
        UsageError: If a radius or alpha is negative, or rho_max is below rho_min.
    """
    high, low = (rho if end is None else end for end in (rho_max, rho_min))
    radius = Constant(rho) if high == low == rho else WithRate(high, low)
    return Rule("gsam", radius=radius, descent=ClosingTheGap(alpha))

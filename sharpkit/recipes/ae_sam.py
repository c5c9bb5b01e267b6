"""Adaptive policies: perturb where the gradient is unusually large."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from sharpkit.core import vec
from sharpkit.core.parts import Constant
from sharpkit.core.rule import Rule
from sharpkit.core.slots import Gate, Need
from sharpkit.core.step import Step
from sharpkit.errors import check_range
from sharpkit.recipes.looksam import Reused

_MEAN = "ae.mean"
_VARIANCE = "ae.variance"

START_VARIANCE = math.exp(-10)


def averaged(mean: Any, variance: Any, n: Any, delta: float) -> tuple[Any, Any]:
    """Return mu_t = delta mu_{t-1} + (1 - delta) n_t and var_t = delta var_{t-1} + (1 - delta) (n_t - mu_t)^2.

    Numbers, or arrays of them for several runs at once.
    """
    mean = delta * mean + (1 - delta) * n
    apart = n - mean
    return mean, delta * variance + (1 - delta) * apart * apart


@dataclass(frozen=True)
class LargeGradient(Gate):
    """Perturb when n_t = ||g_t||^2 is at least mu_t + c_t sigma_t.

    mu_t = delta mu_{t-1} + (1 - delta) n_t, var_t = delta var_{t-1} + (1 - delta) (n_t - mu_t)^2, c_t = (t / T) lam1 +
    (1 - t / T) lam2, from mu = 0 and var = exp(-10). Both averages hold n_t already when it is compared, so the
    z-score is at most (1 - delta)^(-1/2).

    Args:
        lam1: Threshold at the end of the run, in standard deviations.
        lam2: Threshold at its beginning.
        delta: Weight of the past in the averages, in [0, 1).
    """

    lam1: float
    lam2: float
    delta: float
    needs: ClassVar[frozenset[Need]] = frozenset({"total_steps"})
    clean_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_range("lam1", self.lam1)
        check_range("lam2", self.lam2)
        check_range("delta", self.delta, 0, 1, open_high=True)

    def perturbs(self, step: Step) -> bool:
        """Update the averages and compare; reads one number from the device, which the branch needs."""
        norm = float(vec.norm(step.here.grad))
        n = norm * norm  # inf, where ** would raise
        before = step.shared.get(_MEAN, 0.0), step.shared.get(_VARIANCE, START_VARIANCE)
        mean, variance = averaged(*before, n, self.delta)
        if not math.isfinite(variance):
            return False  # the averages would never be finite again
        step.shared[_MEAN], step.shared[_VARIANCE] = mean, variance
        done = step.clock.progress
        threshold = done * self.lam1 + (1 - done) * self.lam2
        if variance > 0:
            step.note("z_score", torch.tensor((n - mean) / math.sqrt(variance)))
        return n >= mean + threshold * math.sqrt(variance)


def ae_sam(rho: float = 0.1, lam1: float = -1.0, lam2: float = 1.0, delta: float = 0.9) -> Rule:
    """Perturb where the squared gradient norm exceeds its running mean by c_t standard deviations; else u = g.

    c_t goes from lam2 at the first step to lam1 at the last. Jiang, Yang, Zhang, Kwok (2023), "An Adaptive Policy to
    Employ Sharpness-Aware Minimization", eqs. (4) and (5) and Algorithm 1. The averages are updated before the
    comparison, as there, and the perturbation is normalised, as in its eq. (2). Cost: 1 to 2 gradients a step, about
    1.5 with the defaults.

    Args:
        rho: Radius, Euclidean norm over all parameters jointly.
        lam1: Threshold at the end of the run, in standard deviations.
        lam2: Threshold at its beginning.
        delta: Weight of the past in mean and variance, in [0, 1).

    Raises:
        UsageError: If rho is negative or delta outside [0, 1).
    """
    return Rule("ae-sam", gate=LargeGradient(lam1, lam2, delta), radius=Constant(rho))


def ae_looksam(rho: float = 0.1, lam1: float = 0.0, lam2: float = 2.0, alpha: float = 0.7, delta: float = 0.9) -> Rule:
    """Perturb as AE-SAM does, and on the steps between reuse the last direction as LookSAM does.

    Jiang, Yang, Zhang, Kwok (2023), "An Adaptive Policy to Employ Sharpness-Aware Minimization", Algorithm 1, lines
    8-11. Until the first perturbation u = g. Cost: 1 to 2 gradients a step, about 1.2 with the defaults.

    Args:
        rho: Radius, Euclidean norm over all parameters jointly.
        lam1: Threshold at the end of the run, in standard deviations.
        lam2: Threshold at its beginning.
        alpha: Weight of the reused direction; the paper tries 0.1, 0.3, 0.6 and 0.9.
        delta: Weight of the past in mean and variance, in [0, 1).

    Raises:
        UsageError: If rho or alpha is negative or delta outside [0, 1).
    """
    return Rule("ae-looksam", gate=LargeGradient(lam1, lam2, delta), radius=Constant(rho), descent=Reused(alpha))

"""On what share of the steps AE-SAM would perturb, given a distribution of squared gradient norms."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sharpkit.errors import check_range
from sharpkit.recipes.ae_sam import START_VARIANCE, averaged

Array = NDArray[np.float64]

STEPS, RUNS = 1_000, 100
"""Length and number of simulated runs; the share is then known to about 0.2 points."""

_BEFORE = 100
"""Steps of a simulated run that do not count: AE-SAM's averages start from zero, and a real run is longer."""


@dataclass(frozen=True)
class AeSamShare:
    """The fractions of steps with a perturbation over a run whose threshold goes from lam2 to lam1.

    Args:
        lam1: Threshold at the end, in standard deviations.
        lam2: Threshold at the beginning.
        delta: Weight of the past in AE-SAM's averages.
        nominal: For normal norms of known mean and variance: the mean over c in [lam1, lam2] of 1 - Phi(c).
        empirical: The same mean of P(z >= c) for the measured z = (n - mean) / std.
        nominal_averaged: With AE-SAM's own running averages, for normal norms of the same mean and deviation.
        empirical_averaged: With its own running averages, for draws from the measured norms.
        error: The standard error of the last two over the simulated runs, the larger of the two; that the norms are a
            sample is not in it.
    """

    lam1: float
    lam2: float
    delta: float
    nominal: float
    empirical: float
    nominal_averaged: float
    empirical_averaged: float
    error: float


def ae_sam_share(
    values: Array, lam1: float = -1.0, lam2: float = 1.0, delta: float = 0.9, *, seed: int = 0
) -> AeSamShare:
    """Return how often AE-SAM would perturb if its squared gradient norms had this distribution all along.

    Jiang et al. (2023), "An Adaptive Policy to Employ Sharpness-Aware Minimization", eqs. (4) and (5), where the norms
    are modelled as normal.

    Args:
        values: (n,); squared gradient norms of independent batches.
        lam1: Threshold at the end of the run.
        lam2: Threshold at its beginning.
        delta: Weight of the past in the averages, in [0, 1).
        seed: Of the draws.

    Raises:
        UsageError: If delta is outside [0, 1).
    """
    check_range("delta", delta, 0, 1, open_high=True)
    check_range("lam1", lam1)
    check_range("lam2", lam2)
    mean, std = float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else math.nan
    if not std > 0:
        nan = math.nan
        return AeSamShare(lam1, lam2, delta, nominal(lam1, lam2), nan, nan, nan, nan)
    draw, shape = np.random.default_rng(seed), (_BEFORE + STEPS, RUNS)
    shares = [
        _share_of_each(norms, lam1, lam2, delta, before=_BEFORE)
        for norms in (draw.normal(mean, std, shape), draw.choice(values, shape))
    ]
    return AeSamShare(
        lam1=lam1,
        lam2=lam2,
        delta=delta,
        nominal=nominal(lam1, lam2),
        empirical=_empirical((values - mean) / std, lam1, lam2),
        nominal_averaged=float(shares[0].mean()),
        empirical_averaged=float(shares[1].mean()),
        # Over the runs, which are independent: decisions of neighbouring steps are not, for they share their averages.
        error=max(float(s.std(ddof=1)) for s in shares) / math.sqrt(RUNS),
    )


def nominal(lam1: float, lam2: float) -> float:
    """Return the mean over c between lam1 and lam2 of P(z >= c) for a standard normal z."""

    def antiderivative(c: float) -> float:
        return c * _tail(c) - math.exp(-c * c / 2) / math.sqrt(2 * math.pi)

    if lam1 == lam2:
        return _tail(lam1)
    return (antiderivative(lam2) - antiderivative(lam1)) / (lam2 - lam1)


def _tail(c: float) -> float:
    return 0.5 * math.erfc(c / math.sqrt(2))


def _empirical(z: Array, lam1: float, lam2: float) -> float:
    low, high = min(lam1, lam2), max(lam1, lam2)
    if low == high:
        return float((z >= low).mean())
    return float(np.clip((z - low) / (high - low), 0, 1).mean())


def simulated(norms: Array, lam1: float, lam2: float, delta: float, *, before: int = 0) -> float:
    """Return the share of perturbed steps of runs with given squared norms, over all runs.

    Args:
        norms: (before + steps, runs).
        lam1: Threshold at the last step.
        lam2: Threshold at the first that counts, and before.
        delta: Weight of the past in the averages.
        before: Steps that do not count.
    """
    return float(_share_of_each(norms, lam1, lam2, delta, before=before).mean())


def _share_of_each(norms: Array, lam1: float, lam2: float, delta: float, *, before: int) -> Array:
    """Return the share of perturbed steps of every run, (runs,)."""
    mean, variance = np.zeros(norms.shape[1]), np.full(norms.shape[1], START_VARIANCE)
    perturbed, steps = np.zeros(norms.shape[1]), len(norms) - before
    for t, n in enumerate(norms, -before):
        mean, variance = averaged(mean, variance, n, delta)
        if t >= 0:
            threshold = t / steps * lam1 + (1 - t / steps) * lam2
            perturbed += n >= mean + threshold * np.sqrt(variance)
    return perturbed / steps

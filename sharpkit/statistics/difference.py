"""The difference between two optimizers over seeds: size, interval and test."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]

TestName = Literal["paired-t", "wilcoxon", "welch", "none"]
"""Student's paired t, Wilcoxon's signed ranks, Welch's t for unpaired samples, or no test."""

Correction = Literal["holm", "bh", "none"]
"""Holm (1979), Benjamini and Hochberg (1995), or none."""

FEWEST = 3
"""Seeds below which no p-value and no interval is given: a spread of two is no estimate of anything."""

_ROUNDING = 1e-13  # of double precision, with room for a few operations


@dataclass(frozen=True)
class Difference:
    """Ours minus the baseline's, in units of the values.

    Args:
        mean: Of the differences.
        std: Standard deviation of the paired differences; of unpaired samples, pooled (the root of the mean variance).
        low: The lower end of the confidence interval of the mean, NaN with too few seeds.
        high: The upper end.
        p: Two-sided p-value, NaN where there is none.
        effect: Cohen's d: mean / std, 0 where nothing differs.
        n: Pairs, or our number of unpaired values.
        n_base: Pairs, or the baseline's number of unpaired values.
        reason: Why there is no p-value; empty where there is.
        paired: Whether it is of pairs.
    """

    mean: float
    std: float
    low: float
    high: float
    p: float
    effect: float
    n: int
    n_base: int
    reason: str
    paired: bool = True


def difference(
    ours: Mapping[int, float], base: Mapping[int, float], *, test: TestName = "paired-t", level: float = 0.95
) -> Difference:
    """Compare the values of two optimizers, by seed.

    Args:
        ours: Value by seed, finite.
        base: The baseline's; pairs are made of the seeds that both have.
        test: Which test. The confidence interval is that of the paired or of Welch's t.
        level: Of the confidence interval.
    """
    if test == "welch":
        return _unpaired(np.array(list(ours.values())), np.array(list(base.values())), level)
    seeds = sorted(set(ours) & set(base))
    paired = np.array([ours[seed] - base[seed] for seed in seeds])
    if not len(paired):
        return _nothing("no seed in common with the baseline")
    mean, n = float(paired.mean()), len(paired)
    std = _spread(paired, max(np.abs([*ours.values(), *base.values()]))) if n > 1 else math.nan
    reason = _reason(n, test)
    low = high = p = math.nan
    if n >= FEWEST:
        half = float(stats.t.ppf((1 + level) / 2, n - 1)) * std / math.sqrt(n)
        low, high = mean - half, mean + half
    if not reason and std == 0:
        p, reason = (1.0, "") if mean == 0 else (math.nan, "the differences do not vary")
    elif not reason:
        p = _paired_t(paired) if test == "paired-t" else _signed_ranks(paired)
    effect = 0.0 if mean == 0 else mean / std if std else math.nan
    return Difference(mean, std, low, high, p, effect, n, n, reason)


def _nothing(reason: str, *, paired: bool = True) -> Difference:
    nan = math.nan
    return Difference(nan, nan, nan, nan, nan, nan, n=0, n_base=0, reason=reason, paired=paired)


def _unpaired(ours: Array, base: Array, level: float) -> Difference:
    sizes = len(ours), len(base)
    if not min(sizes):
        return _nothing("no value", paired=False)
    mean, reason = float(ours.mean() - base.mean()), _reason(min(sizes), "welch")
    if min(sizes) < 2:
        return Difference(mean, math.nan, math.nan, math.nan, math.nan, math.nan, *sizes, reason, paired=False)
    size = max(np.abs([*ours, *base]))
    pooled = math.hypot(_spread(ours, size), _spread(base, size)) / math.sqrt(2)
    low = high = p = math.nan
    if not reason and pooled == 0:
        p, reason = (1.0, "") if mean == 0 else (math.nan, "the values do not vary")
    elif not reason:
        found: Any = stats.ttest_ind(ours, base, equal_var=False)
        interval = found.confidence_interval(level)
        low, high, p = float(interval.low), float(interval.high), float(found.pvalue)
    effect = 0.0 if mean == 0 else mean / pooled if pooled else math.nan
    return Difference(mean, pooled, low, high, p, effect, *sizes, reason, paired=False)


def _spread(values: Array, size: float) -> float:
    """Return the standard deviation of values; 0 where it is the rounding of numbers of a size."""
    std = float(values.std(ddof=1))
    return std if std > _ROUNDING * size else 0.0


def _reason(n: int, test: TestName) -> str:
    if test == "none":
        return "no test was asked for"
    return f"{n} seed{'s' * (n != 1)}: too few for a test, {FEWEST} are needed" if n < FEWEST else ""


def _paired_t(paired: Array) -> float:
    found: Any = stats.ttest_1samp(paired, 0)
    return float(found.pvalue)


def _signed_ranks(paired: Array) -> float:
    with warnings.catch_warnings(action="ignore"):  # about ties, for which SciPy takes the normal approximation
        found: Any = stats.wilcoxon(paired)
    return float(found.pvalue)


def adjusted(p: Sequence[float], correction: Correction = "holm") -> list[float]:
    """Return p-values that hold for all comparisons of a table together; NaN stays and does not count.

    Holm's step-down method bounds the probability of any false finding; Benjamini and Hochberg's bounds the expected
    share of false ones among the findings.
    """
    values = np.array(p, dtype=float)
    known = np.flatnonzero(np.isfinite(values))
    if correction == "none" or not len(known):
        return values.tolist()
    if correction == "bh":
        values[known] = stats.false_discovery_control(values[known], method="bh")
        return values.tolist()
    order = known[np.argsort(values[known])]
    factors = np.arange(len(order), 0, -1)
    values[order] = np.minimum(1, np.maximum.accumulate(factors * values[order]))
    return values.tolist()

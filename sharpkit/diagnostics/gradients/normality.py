"""How near numbers are to a normal distribution: moments, tests, and the quantile-quantile plot with its envelope."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

FEWEST = 8
"""Numbers that tests and moments need."""

_MOST_FOR_SHAPIRO = 5000
"""Beyond it the p-value of Shapiro and Wilk's test is not calibrated; so many are drawn at random then."""

LEVEL = 0.05
"""At which a test rejects."""


@dataclass(frozen=True)
class Test:
    """A statistic and the probability of one as extreme where the numbers are normal."""

    __test__ = False  # not one of pytest's

    statistic: float
    p: float


@dataclass(frozen=True)
class Normality:
    """How near n numbers are to a normal distribution. NaN where there are too few, or all are equal.

    Args:
        mean: Of the numbers.
        std: Their standard deviation, over n - 1.
        skewness: E z^3; 0 for a normal distribution, with a standard error of about (6 / n)^(1/2).
        kurtosis: E z^4 - 3; 0 for a normal distribution, with a standard error of about (24 / n)^(1/2).
        r_qq: The correlation of the Q-Q plot (Filliben 1975); 1 for a normal distribution.
        shapiro: Shapiro and Wilk's W, of at most 5,000 of the numbers.
        anderson: Anderson and Darling's A^2 with mean and variance estimated, and its p-value by Stephens (1986).
        theoretical: (n,); the medians of the order statistics of n standard normal numbers, by Filliben.
        ordered: (n,); the numbers in order.
        slope: Of the line of least squares through the Q-Q plot: the standard deviation of the fitted normal.
        intercept: Of the same line: its mean.
        low: (n,); below it lie 2.5 % of the i-th of n normal numbers whose fitted line is this one.
        high: (n,); above it lie 2.5 % of them; pointwise, so that some of 400 points lie outside.
        shapiro_count: Numbers that Shapiro and Wilk's test used, drawn at random without replacement where not all.
    """

    mean: float
    std: float
    skewness: float
    kurtosis: float
    r_qq: float
    shapiro: Test
    anderson: Test
    theoretical: Array
    ordered: Array
    slope: float
    intercept: float
    low: Array
    high: Array
    shapiro_count: int = 0

    @property
    def outside(self) -> int:
        """How many points of the Q-Q plot are outside the envelope; one in twenty is expected."""
        return int(((self.ordered < self.low) | (self.ordered > self.high)).sum())

    @property
    def rejected(self) -> bool:
        """Whether one of the tests rejects normality at the 5 % level."""
        return self.shapiro.p < LEVEL or self.anderson.p < LEVEL

    @property
    def verdict(self) -> str:
        """One plain sentence."""
        count = len(self.ordered)
        if count < FEWEST:
            return f"{count} numbers are too few to tell"
        if math.isnan(self.r_qq):
            return "all numbers are equal"
        part = f" ({self.shapiro_count:,} of {count:,} at random)" if self.shapiro_count < count else ""
        tests = f"Shapiro-Wilk p = {self.shapiro.p:.2g}{part}, Anderson-Darling p = {self.anderson.p:.2g}"
        if not self.rejected:
            return f"nothing speaks against a normal distribution at the 5 % level ({tests})"
        side = "right" if self.skewness > 0 else "left"
        clear = abs(self.skewness) > 2 * math.sqrt(6 / count)
        shape = f"skewed to the {side}, skewness {self.skewness:.2g}" if clear else f"kurtosis {self.kurtosis:.2g}"
        return f"not normal at the 5 % level ({tests}); {shape}"


def normality(values: Array, *, seed: int = 0) -> Normality:
    """Return how near numbers are to a normal distribution.

    Args:
        values: (n,), finite.
        seed: Of the draw of 5,000 numbers for Shapiro and Wilk's test, where there are more.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    count = len(ordered)
    theoretical, low, high = _order_statistics(count)
    mean, std = float(ordered.mean()), float(ordered.std(ddof=1)) if count > 1 else math.nan
    if count < FEWEST or not std > 0:
        none = Test(math.nan, math.nan)
        empty = np.full(count, math.nan)
        nan = math.nan
        return Normality(mean, std, nan, nan, nan, none, none, theoretical, ordered, nan, nan, empty, empty)
    z = (ordered - mean) / ordered.std()
    part = _part(ordered, seed)
    slope = float((theoretical * (ordered - mean)).sum() / (theoretical * theoretical).sum())
    return Normality(
        mean=mean,
        std=std,
        skewness=float((z**3).mean()),
        kurtosis=float((z**4).mean() - 3),
        r_qq=float(np.corrcoef(theoretical, ordered)[0, 1]),
        shapiro=_shapiro(part),
        anderson=_anderson(ordered),
        theoretical=theoretical,
        ordered=ordered,
        slope=slope,
        intercept=mean,  # the theoretical quantiles are symmetric, so their mean is zero
        low=mean + slope * low,
        high=mean + slope * high,
        shapiro_count=len(part),
    )


def _stats() -> Any:
    return import_module("scipy.stats")  # takes most of a second, and most commands do without


def _order_statistics(count: int) -> tuple[Array, Array, Array]:
    """Return the medians of standard normal order statistics, and the ends of 95 % of them about the fitted line.

    The i-th of n uniform order statistics has the distribution Beta(i, n - i + 1). Mean and deviation of the same n
    numbers are independent of the residuals about their line (Basu, 1955), so these have the variance
    Var(z_i) - 1/n - m_i^2 / 2n, m_i the median, to first order in 1/n; the ends are drawn in by its square root.
    """
    stats = _stats()
    i = np.arange(1, count + 1)
    medians = (i - 0.3175) / (count + 0.365)
    medians[-1:] = 0.5 ** (1 / max(count, 1))
    medians[:1] = 1 - medians[-1:]
    medians = stats.norm.ppf(medians)
    low, high = (stats.norm.ppf(stats.beta.ppf(q, i, count - i + 1)) for q in (0.025, 0.975))
    variance = ((high - low) / (2 * stats.norm.ppf(0.975))) ** 2
    factor = np.sqrt(np.maximum(0, 1 - (1 + medians**2 / 2) / (count * variance)))
    return medians, medians + factor * (low - medians), medians + factor * (high - medians)


def _part(values: Array, seed: int) -> Array:
    """Return at most 5,000 numbers, drawn at random without replacement: of normal numbers they are normal numbers.

    Every k-th of the ordered numbers would be nearer to the quantiles than any sample is, and never be rejected.
    """
    if len(values) <= _MOST_FOR_SHAPIRO:
        return values
    return np.random.default_rng(seed).choice(values, _MOST_FOR_SHAPIRO, replace=False)


def _shapiro(values: Array) -> Test:
    found = _stats().shapiro(values)
    return Test(float(found.statistic), float(found.pvalue))


def _anderson(ordered: Array) -> Test:
    """Return A^2 = -n - 1/n sum_i (2 i - 1) (log F(z_i) + log(1 - F(z_{n+1-i}))), whose form in SciPy changes.

    The p-value is that of D'Agostino and Stephens (1986), table 4.9, for A^2 (1 + 0.75 / n + 2.25 / n^2).
    """
    norm, count = _stats().norm, len(ordered)
    z = (ordered - ordered.mean()) / ordered.std(ddof=1)
    i = np.arange(1, count + 1)
    squared = float(-count - ((2 * i - 1) * (norm.logcdf(z) + norm.logsf(z[::-1]))).mean())
    a = squared * (1 + 0.75 / count + 2.25 / count**2)
    if a < 0.2:
        p = 1 - math.exp(-13.436 + 101.14 * a - 223.73 * a * a)
    elif a < 0.34:
        p = 1 - math.exp(-8.318 + 42.796 * a - 59.938 * a * a)
    elif a < 0.6:
        p = math.exp(0.9177 - 4.279 * a - 1.38 * a * a)
    else:
        p = math.exp(1.2937 - 5.709 * a + 0.0186 * a * a) if a < 13 else 0.0  # the fit turns upwards far out
    return Test(squared, p)

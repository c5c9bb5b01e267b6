"""Confidence intervals of means of a few independent values, by Student's t."""

from __future__ import annotations

import math

LEVEL = 0.95
"""The level of every interval."""


def half_width(error: float, count: int) -> float:
    """Return half of the width of the 95 % confidence interval of a mean, t_{n-1} s / n^(1/2).

    Args:
        error: s / n^(1/2), the standard error.
        count: n, the independent values that the mean is of.

    Returns:
        0 where the error is 0, NaN where there are fewer than two values.
    """
    if error == 0:
        return 0.0
    if count < 2 or math.isnan(error):
        return math.nan
    from scipy.special import stdtrit  # takes a while, and most commands do without

    return float(stdtrit(count - 1, (1 + LEVEL) / 2)) * error

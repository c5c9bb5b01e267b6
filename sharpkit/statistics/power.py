"""The smallest difference that so many seeds show: what a test could have seen, whatever it saw."""

from __future__ import annotations

import math
from typing import Any, cast

from scipy import optimize, stats

from sharpkit.statistics.difference import Difference, TestName

POWER = 0.8
"""The probability that is asked for."""

_EFFICIENCY_OF_RANKS = 3 / math.pi  # of Wilcoxon's test to Student's, for normal differences


def detectable(found: Difference, test: TestName, level: float) -> float:
    """Return the true difference that the test would call significant with probability 0.8.

    It is a property of the spread and the number of seeds and not of the observed mean. With s the standard deviation
    of the differences, it is delta of P(T > t) = 0.8, where T has the noncentral t distribution with n - 1 degrees of
    freedom and noncentrality delta sqrt(n) / s, and t is the quantile of `level`.

    Args:
        found: The difference whose spread and seeds count.
        test: Which test. Of Wilcoxon's it is that of 3/pi times as many seeds under Student's, for normal differences.
        level: Two-sided, that of one comparison after the correction of the table.

    Returns:
        In the units of the values; NaN without a spread, infinity where no difference reaches the level.

    Source:
        J. Cohen (1988), "Statistical Power Analysis for the Behavioral Sciences", chapter 2; for the ranks, J. L.
        Hodges and E. L. Lehmann (1956), "The efficiency of some nonparametric competitors of the t-test".
    """
    if math.isnan(found.p) or not found.std:
        return math.nan
    if test == "wilcoxon":
        if 2.0 ** (1 - found.n) >= level:  # the smallest p-value that ranks of so many pairs have
            return math.inf
        freedom, scale = found.n * _EFFICIENCY_OF_RANKS - 1, math.sqrt(found.n * _EFFICIENCY_OF_RANKS)
    elif test == "welch":
        ours, base = found.n, found.n_base
        freedom, scale = ours + base - 2, 1 / math.sqrt(1 / ours + 1 / base)
    else:
        freedom, scale = found.n - 1, math.sqrt(found.n)
    edge = float(stats.t.ppf(1 - level / 2, freedom))

    def beyond(shift: float) -> float:
        """Return how much more often than asked for T is above t; below -t it is less often than once in 10^9."""
        return float(stats.nct.sf(edge, freedom, shift)) - POWER

    high = edge + 2
    while beyond(high) < 0:
        high *= 2
    find: Any = cast("Any", optimize).brentq
    return float(find(beyond, 0.0, high)) * found.std / scale

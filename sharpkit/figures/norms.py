"""Squared gradient norms: histogram with the fitted normal, and Q-Q plot, as figures 3, 8 and 9 of AE-SAM's paper."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sharpkit.diagnostics.gradients.gradient_norms import GradNormResult
from sharpkit.diagnostics.gradients.normality import Normality
from sharpkit.figures import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def norms(results: Mapping[str, GradNormResult], *, histogram: bool = True) -> Figure:
    """Draw a row for every result: the histogram with the fitted normal, and the Q-Q plot with line and envelope.

    Args:
        results: By name.
        histogram: Whether there is a histogram.
    """
    columns = 2 if histogram else 1
    figure, axes = style.panels(len(results), columns, width=3.6 * columns, height=0.3 + 2.9 * len(results))
    for i, (name, result) in enumerate(results.items()):
        found, row = result.normality, axes[i]
        if histogram:
            _histogram(row[0], found, style.colour(i))
            row[0].set_title(
                f"{name}, {len(result.values)} batches of {result.samples}", fontsize=style.TITLE, loc="left"
            )
        _quantiles(row[-1], found, style.colour(i))
        row[-1].set_title(
            rf"$r_{{QQ}}$ = {found.r_qq:.4f}, skewness {found.skewness:.2g}" if found.r_qq == found.r_qq
            else found.verdict, fontsize=style.TITLE, loc="left")  # fmt: skip
    return figure


def _histogram(axis: Any, found: Normality, colour: str) -> None:
    values = found.ordered
    axis.hist(values, bins="fd" if found.std > 0 else 1, density=True, color=colour, alpha=0.35, linewidth=0)
    if found.std > 0:
        x = np.linspace(float(values[0]) - 0.3 * found.std, float(values[-1]) + 0.3 * found.std, 300)
        y = np.exp(-((x - found.mean) ** 2) / (2 * found.std**2)) / (found.std * math.sqrt(2 * math.pi))
        axis.plot(x, y, color="black", linewidth=1.2, label="normal of the same\nmean and variance")
        axis.margins(y=0.25)
        axis.legend(fontsize=style.SMALL, frameon=False, loc="best")
    axis.set_xlabel(r"$\|\nabla L(B)\|^2$")
    axis.set_ylabel("density")


def _quantiles(axis: Any, found: Normality, colour: str) -> None:
    x = found.theoretical
    axis.fill_between(x, found.low, found.high, color="0.85", linewidth=0, label="95 % of normal samples, pointwise")
    axis.plot(x, found.intercept + found.slope * x, color="black", linewidth=1.2, label="fitted line")
    axis.plot(x, found.ordered, ".", color=colour, markersize=3.5, label="batches")
    axis.set_xlabel("quantile of the standard normal")
    axis.set_ylabel(r"$\|\nabla L(B)\|^2$")
    axis.legend(fontsize=style.SMALL, frameon=False, loc="upper left")

"""Densities of the relative difference of two gradients, as figure 1 of the Sparse SAM paper shows them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sharpkit.diagnostics.gradients.gradient_difference import GradDiffResult
from sharpkit.figures import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 1e-4
"""Part of the entries at each end of the axis that may be left out of sight; the table counts them."""


def differences(results: Mapping[str, GradDiffResult], base: float = math.e) -> Figure:
    """Draw the density of r of every result over the same bins, and the line r = 0.

    Args:
        results: By name, all on one grid.
        base: Of the logarithm.
    """
    figure, axes = style.panels(1, 1, width=6.4, height=3.4 + 0.22 * len(results))
    axis = axes[0, 0]
    factor = math.log(base)
    grid = next(iter(results.values())).grid
    edges = grid.edges / factor
    top = 0.0
    for i, (name, result) in enumerate(results.items()):
        density = result.total.histogram / max(1, result.total.counted) / (edges[1] - edges[0])
        top = max(top, float(density.max()))
        share = f"{100 * result.total.fraction_negative:.2f}% below 0" if result.total.counted else "no entry"
        axis.stairs(density, edges, color=style.colour(i), alpha=0.18, fill=True)
        axis.stairs(density, edges, color=style.colour(i), linestyle=style.line(i), linewidth=1.3,
                    label=f"{name}: {result.rule}, {share}")  # fmt: skip
    axis.axvline(0, color="black", linewidth=1)
    axis.annotate(r"$|g_{SAM} - g_{SGD}| = |g_{SGD}|$", (0, 1), (4, -2), xycoords=("data", "axes fraction"),
                  textcoords="offset points", va="top", fontsize=style.SMALL)  # fmt: skip
    axis.set_xlim(*_range(results, edges))
    axis.set_ylim(0, 1.12 * top or 1)
    written = r"\ln" if base == math.e else rf"\log_{{{base:g}}}"
    axis.set_xlabel(rf"$r = {written}\,|(g_{{SAM}} - g_{{SGD}})\, /\, g_{{SGD}}|$")
    axis.set_ylabel("density over parameters")
    style.legend_above(figure, axis, 1)
    return figure


def _range(results: Mapping[str, GradDiffResult], edges: Any) -> tuple[float, float]:
    """Return the part of the axis that holds nearly everything, zero in any case."""
    low, high = list[int](), list[int]()
    for result in results.values():
        cumulative = np.cumsum(result.total.histogram)
        total = float(cumulative[-1])
        if total:
            low.append(int((cumulative < _SHOWN * total).sum()))
            high.append(int((cumulative < (1 - _SHOWN) * total).sum()) + 1)
    ends: list[float] = edges.tolist()
    if not low:
        return ends[0], ends[-1]
    width = ends[1] - ends[0]
    return min(ends[min(low)], 0.0) - width, max(ends[min(max(high), len(ends) - 1)], 0.0) + width

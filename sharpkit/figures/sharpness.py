"""Rises of the loss around the weights, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sharpkit.diagnostics.sharpness import Estimate, SharpnessResult
from sharpkit.figures import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def rises(results: Mapping[str, SharpnessResult]) -> Figure:
    """Draw the one-step, the ascent, the piecewise and the average rise of every result with two standard errors.

    Args:
        results: By name.
    """
    first = next(iter(results.values()))
    ascent = f"ascent, {first.steps} step{'' if first.steps == 1 else 's'}"
    kinds = {"one step": "one_step", ascent: "ascent"}
    if any(r.m_sharpness is not None for r in results.values()):
        kinds[f"{first.m} samples each"] = "m_sharpness"
    if any(len(r.directions) for r in results.values()):
        kinds["random directions"] = "average"
    figure, axes = style.panels(1, 1, width=6.4, height=2.8 + 0.2 * len(results))
    axis = axes[0, 0]
    for i, (name, result) in enumerate(results.items()):
        shift = 0.6 * ((i + 0.5) / len(results) - 0.5)
        for k, attribute in enumerate(kinds.values()):
            found: Estimate | None = getattr(result, attribute)
            if found is not None:
                error = 2 * found.error if found.error == found.error else 0.0
                axis.errorbar(
                    k + shift, found.value, error, color=style.colour(i), marker=style.marker(i), markersize=5,
                    capsize=3, linestyle="none", label=f"{name}: {result.rule}" if k == 0 else None,
                )  # fmt: skip
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_xticks(range(len(kinds)), list(kinds))
    axis.set_ylabel(r"rise of the loss, $\pm$ 2 standard errors")
    style.legend_above(figure, axis, 1)
    return figure

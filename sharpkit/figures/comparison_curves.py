"""Losses and accuracies of a comparison over the epochs: a row of panels for every setting, a line for every recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sharpkit.figures.curves import LABELS, Curve
from sharpkit.figures.style import SMALL, colour, legend_above, line, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def over_epochs(places: Mapping[str, Sequence[Curve]]) -> Figure:
    """Draw means over seeds, with bands of one standard deviation.

    Args:
        places: The curves of every setting; of accuracies, as fractions.

    Raises:
        InputError: If matplotlib is not installed.
    """
    every = [curve for curves in places.values() for curve in curves]
    metrics = list(dict.fromkeys(curve.metric for curve in every))
    groups = list(dict.fromkeys(curve.group for curve in every))
    width, height = max(4.6, 3.2 * len(metrics)), 0.5 + 2.2 * len(places)
    figure, axes = panels(len(places), len(metrics), width=width, height=height, sharex=True)
    for row, (place, curves) in zip(axes, places.items(), strict=True):
        row[0].set_title(place.replace("_", " "), fontsize=SMALL + 2, loc="left")
        for axis, metric in zip(row, metrics, strict=True):
            for curve in curves:
                if curve.metric == metric:
                    _draw(axis, curve, groups.index(curve.group))
            axis.set_ylabel(LABELS.get(metric, metric.replace("_", " ")))
    for axis in axes[-1]:
        axis.set_xlabel("epoch")
    legend_above(figure, axes[0, 0], 4)
    return figure


def _draw(axis: Any, curve: Curve, i: int) -> None:
    factor = 100.0 if curve.metric.endswith("acc") else 1.0
    mean, std = factor * curve.mean, factor * np.nan_to_num(curve.std)
    axis.plot(curve.x, mean, color=colour(i), ls=line(i), lw=1.3, label=curve.group)
    axis.fill_between(curve.x, mean - std, mean + std, color=colour(i), alpha=0.2, lw=0)

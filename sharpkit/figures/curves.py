"""Metrics over a run, a panel each, with a band over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from sharpkit.figures import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

Band = Literal["std", "se", "range", "none"]

LABELS = {
    "train_loss": "training loss",
    "val_loss": "validation loss",
    "train_acc": "training accuracy, %",
    "val_acc": "validation accuracy, %",
    "pct_sam": "steps with a perturbation, %",
    "lr": "learning rate",
    "loss": "training loss",
    "samples_per_s": "samples a second",
    "grad_norm_sq": r"$E\,\|\nabla L(B)\|^2$",
    "grad_var": r"Var$(\nabla L(B))$",
    "full_grad_sq": r"$\|\nabla L(D)\|^2$",
    "xy_distance": r"$\|\nabla f(x_t) - \nabla f(y_t)\|$",
    "xy_cosine": r"$\cos(\nabla f(x_t), \nabla f(y_t))$",
    "lambda_max": r"$\lambda_1$ of the Hessian",
    "sharpness_one_step": "rise of the loss, one step",
    "sharpness_worst": "rise of the loss, worst case (lower bound)",
    "sharpness_average": "rise of the loss, average",
}
X_LABELS = {"epoch": "epoch", "step": "step", "gradients": "gradients of a batch", "seconds": "seconds of training"}
BANDS = {"std": "standard deviation", "se": "standard error", "range": "range"}

_IN_PERCENT = ("train_acc", "val_acc")
_LOGARITHMIC = ("loss", "norm", "var", "grad_sq", "lambda", "distance", "sharpness")
_COLUMNS = 3


@dataclass(frozen=True)
class Curve:
    """A metric of a group of runs.

    Args:
        group: What the group is called.
        metric: The key.
        x: (n,).
        mean: (n,); over the runs that got there.
        std: (n,); standard deviation over runs, NaN for one.
        low: (n,); the smallest.
        high: (n,); the largest.
        count: (n,); how many runs there are at each x.
    """

    group: str
    metric: str
    x: Array
    mean: Array
    std: Array
    low: Array
    high: Array
    count: NDArray[np.int64]


def curves(given: Sequence[Curve], x: str, band: Band = "std", *, log_y: bool = False) -> Figure:
    """Draw a panel for every metric and a line for every group.

    Args:
        given: The curves.
        x: What they run over.
        band: What surrounds a mean over several runs.
        log_y: Whether positive losses, norms and eigenvalues have a logarithmic axis.
    """
    metrics = list(dict.fromkeys(c.metric for c in given))
    groups = list(dict.fromkeys(c.group for c in given))
    columns = 2 if len(metrics) == 4 else min(_COLUMNS, len(metrics))
    rows = -(-len(metrics) // columns)
    height = 0.3 + 2.4 * rows + 0.2 * len(groups)
    figure, axes = style.panels(rows, columns, width=max(4.6, 3.3 * columns), height=height)
    for axis, metric in zip(axes.flat, metrics, strict=False):
        of_metric = [c for c in given if c.metric == metric]
        for curve in of_metric:
            _draw(axis, curve, groups.index(curve.group), band)
        axis.set_xlabel(X_LABELS[x])
        axis.set_ylabel(LABELS.get(metric, metric.replace("_", " ")))
        positive = all((c.low[np.isfinite(c.low)] > 0).all() for c in of_metric)
        if log_y and positive and any(word in metric for word in _LOGARITHMIC):
            axis.set_yscale("log")
        else:
            axis.ticklabel_format(axis="y", scilimits=(-3, 4))
    for axis in axes.flat[len(metrics) :]:
        axis.set_visible(False)
    _legend(figure, axes.flat[0], given, groups, band)
    return figure


def _draw(axis: Any, curve: Curve, i: int, band: Band) -> None:
    factor = 100.0 if curve.metric in _IN_PERCENT else 1.0
    few = len(curve.x) <= 30
    axis.plot(curve.x, factor * curve.mean, color=style.colour(i), linestyle=style.line(i), linewidth=1.3,
              marker=style.marker(i) if few else None, markersize=3)  # fmt: skip
    if band == "none" or not (curve.count > 1).any():
        return
    if band == "range":
        low, high = curve.low, curve.high
    else:
        half = curve.std / (np.sqrt(curve.count) if band == "se" else 1.0)
        low, high = curve.mean - half, curve.mean + half
    axis.fill_between(curve.x, factor * low, factor * high, color=style.colour(i), alpha=0.2, linewidth=0)


def _legend(figure: Figure, axis: Any, given: Sequence[Curve], groups: Sequence[str], band: Band) -> None:
    for i, group in enumerate(groups):
        most = max((int(c.count.max(initial=0)) for c in given if c.group == group), default=1)
        many = f", mean of {most} runs" if most > 1 else ""
        spread = f" and {BANDS[band]}" if many and band != "none" else ""
        axis.plot([], [], color=style.colour(i), linestyle=style.line(i), marker=style.marker(i), markersize=3,
                  label=f"{group}{many}{spread}")  # fmt: skip
    style.legend_above(figure, axis, max(1, math.floor(2 / max(1, max(map(len, groups)) / 40))))

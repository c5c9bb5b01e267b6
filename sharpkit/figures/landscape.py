"""Losses over a plane: filled contours and 3-D surfaces on one colour scale, profiles in one panel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sharpkit.diagnostics.surfaces.landscape_result import Array, LandscapeResult
from sharpkit.errors import UsageError
from sharpkit.figures.style import COLOURS, blank

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Style = Literal["contour", "surface", "both"]

_MAP = "viridis"
_ACROSS = 3
"""Panels in a row."""

_LABELLED = 6
"""Contour lines with their loss written on them, about."""


@dataclass(frozen=True)
class Scale:
    """The colours of all panels.

    Args:
        low: Lowest loss.
        high: Highest loss.
        log: Whether equal steps of colour are equal ratios.
    """

    low: float
    high: float
    log: bool

    def levels(self, count: int) -> Array:
        """Return that many contour levels, about; round numbers where the scale is linear."""
        if self.log:
            return _round_ratios(self.low, self.high, count)
        from matplotlib.ticker import MaxNLocator

        return np.asarray(MaxNLocator(count, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low, self.high), float)

    def norm(self, low: float, high: float) -> Any:
        """Return how a loss becomes a colour."""
        from matplotlib.colors import LogNorm, Normalize

        return (LogNorm if self.log else Normalize)(low, high)


def _round_ratios(low: float, high: float, count: int) -> Array:
    """Return round numbers from below `low` to above `high`, in about equal ratios."""
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)):
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        all_ = np.array([step * 10.0**decade for decade in decades for step in steps])
        chosen = all_[max(0, np.searchsorted(all_, low, "right") - 1) : np.searchsorted(all_, high) + 1]
        if len(chosen) >= 0.7 * count:
            return chosen
    return np.geomspace(low, high, count)


def landscape(
    results: Mapping[str, LandscapeResult],
    *,
    style: Style = "contour",
    log: bool = False,
    vmin: float | None = None,
    vmax: float | None = None,
    levels: int = 16,
) -> Figure:
    """Draw a panel for every result, all with the same colours and contour levels; profiles share a panel.

    Cells whose loss is not finite are hatched.

    Args:
        results: By name; all surfaces, or all profiles.
        style: Contours, 3-D surfaces, or a row of each.
        log: Logarithmic loss.
        vmin: Lowest loss of the colours; None is the lowest of all results.
        vmax: Highest loss of the colours; None is the highest of all.
        levels: How many contour levels, about.

    Raises:
        InputError: If matplotlib cannot be imported.
        UsageError: If a logarithmic scale has nothing positive to show.
    """
    if all(result.profile for result in results.values()):
        figure = blank(6.0, 4.0)
        _profiles(figure.subplots(), results, log, vmin, vmax)
        return figure
    scale = scale_of(list(results.values()), log, vmin, vmax)
    kinds: list[Literal["contour", "surface"]] = ["contour", "surface"] if style == "both" else [style]
    across = min(_ACROSS, len(results))
    down = math.ceil(len(results) / across)
    figure = blank(1.2 + 3.4 * across, 0.4 + 3.4 * down * len(kinds))
    drawn: Any = None
    for row, kind in enumerate(kinds):
        for i, (name, result) in enumerate(results.items()):
            place = (down * len(kinds), across, row * down * across + i + 1)
            if kind == "contour":
                axis: Any = figure.add_subplot(*place)
                drawn = _contours(axis, result, scale, levels)
            else:
                axis = figure.add_subplot(*place, projection="3d")
                _surface(axis, result, scale)
            if row == 0:
                axis.set_title(_title(name, result), fontsize=8)
    _colour_bar(figure, drawn, scale)
    return figure


def _colour_bar(figure: Any, drawn: Any, scale: Scale) -> None:
    """Draw one bar for all panels: the contours' levels, or a smooth one where there are none."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.ticker import FuncFormatter, NullLocator

    shown = drawn or ScalarMappable(scale.norm(scale.low, scale.high), _MAP)
    bar = figure.colorbar(shown, ax=figure.axes, shrink=0.85, aspect=30)
    bar.set_label("loss", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    if scale.log:
        if drawn is not None:
            bar.set_ticks(drawn.levels[:: max(1, len(drawn.levels) // 8)])
        bar.ax.yaxis.set_major_formatter(FuncFormatter(_short))
        bar.ax.yaxis.set_minor_locator(NullLocator())


def scale_of(results: Sequence[LandscapeResult], log: bool, vmin: float | None, vmax: float | None) -> Scale:
    """Return the colour scale of several surfaces, from their finite losses where no bound is given.

    Raises:
        UsageError: If nothing is left between the bounds, or a logarithmic scale has no positive loss.
    """
    values = np.concatenate([result.loss[np.isfinite(result.loss)] for result in results])
    if log:
        values = values[values > 0]
    if not values.size and (vmin is None or vmax is None):
        raise UsageError("no cell has a loss that can be drawn", "narrow --x and --y, or give --vmin and --vmax")
    low = float(values.min()) if vmin is None else vmin
    high = float(values.max()) if vmax is None else vmax
    if low == high and vmin is None and vmax is None:
        low, high = (low / 2, 2 * high) if log else (low - 0.5, high + 0.5)
    if not low < high:
        raise UsageError(f"the colours would go from {low:g} to {high:g}", "give other --vmin or --vmax")
    return Scale(low, high, log)


def _contours(axis: Any, result: LandscapeResult, scale: Scale, count: int) -> Any:
    """Draw filled contours with labelled lines; return what a colour bar is made of."""
    from matplotlib.patheffects import withStroke

    levels = scale.levels(count)
    shown = np.ma.masked_invalid(result.loss)
    norm = scale.norm(levels[0], levels[-1])
    axis.set_facecolor("0.9")
    axis.patch.set(hatch="xxx", edgecolor="0.65")
    if min(result.loss.shape) > 1 and shown.count():
        beyond = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}
        extend = beyond[bool(shown.min() < levels[0]), bool(shown.max() > levels[-1])]
        drawn = axis.contourf(result.x, result.y, shown, levels=levels, cmap=_MAP, norm=norm, extend=extend)
        lines = axis.contour(result.x, result.y, shown, levels=levels, colors="black", linewidths=0.4, alpha=0.6)
        crossed = [level for level in levels if shown.min() < level < shown.max()]
        if crossed:
            chosen = crossed[:: max(1, len(crossed) // _LABELLED)]
            for text in axis.clabel(lines, chosen, fontsize=6, fmt=_short):
                text.set_path_effects([withStroke(linewidth=1.5, foreground="white")])
                text.set_alpha(1)
    else:
        drawn = axis.pcolormesh(result.x, result.y, shown, cmap=_MAP, norm=norm)
    _marks(axis, result)
    axis.set_xlabel(_axis_name(result, 0), fontsize=8)
    axis.set_ylabel(_axis_name(result, 1), fontsize=8)
    axis.tick_params(labelsize=7)
    axis.set_xlim(result.x[0], result.x[-1])
    axis.set_ylim(result.y[0], result.y[-1])
    axis.set_box_aspect(1)
    return drawn


def _marks(axis: Any, result: LandscapeResult) -> None:
    """Draw the centre, and checkpoints: those of a run as its path."""
    marks = result.plane.marks
    if marks:
        x, y = [m.x for m in marks], [m.y for m in marks]
        line = "-" if result.plane.kind == "pca" else "none"
        axis.plot(x, y, linestyle=line, marker="o", markersize=3, color="white", linewidth=1, markeredgecolor="black",
                  markeredgewidth=0.5)  # fmt: skip
        named = marks if result.plane.kind != "pca" else marks[:1]
        for mark in named:
            axis.annotate(
                mark.name, (mark.x, mark.y), xytext=(4, 4), textcoords="offset points", fontsize=6, zorder=6,
                color="white", bbox={"facecolor": "black", "alpha": 0.6, "pad": 1, "linewidth": 0},
            )  # fmt: skip
    axis.plot([0], [0], marker="+", color="white", markersize=9, markeredgewidth=2.4)
    axis.plot([0], [0], marker="+", color="black", markersize=8, markeredgewidth=1.2)


def _surface(axis: Any, result: LandscapeResult, scale: Scale) -> None:
    """Draw a surface in three dimensions with its contours on the floor."""
    from matplotlib.colors import Normalize
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

    of = np.log10 if scale.log else np.asarray
    low, high = float(of(scale.low)), float(of(scale.high))
    with np.errstate(divide="ignore", invalid="ignore"):
        height = np.where(np.isfinite(result.loss), of(result.loss), np.nan)
    height = np.clip(height, low, high)
    a, b = np.meshgrid(result.x, result.y)
    norm = Normalize(low, high)
    axis.plot_surface(
        a, b, height, cmap=_MAP, norm=norm, rcount=60, ccount=60, linewidth=0.1, edgecolor=(0, 0, 0, 0.25)
    )
    floor = low - 0.35 * (high - low)
    if min(height.shape) > 1 and np.isfinite(height).all():
        axis.contour(a, b, height, levels=10, zdir="z", offset=floor, cmap=_MAP, norm=norm, linewidths=0.6)
    axis.set_zlim(floor, high)
    axis.set_xlabel("a", fontsize=8, labelpad=-6)
    axis.set_ylabel("b", fontsize=8, labelpad=-6)
    axis.tick_params(labelsize=6, pad=-2)
    ticks = [float(tick) for tick in MaxNLocator(5).tick_values(low, high)]
    if scale.log and math.floor(high) > math.ceil(low):
        ticks = [float(power) for power in range(math.ceil(low), math.floor(high) + 1)]
    axis.xaxis.set_major_locator(MaxNLocator(4))
    axis.yaxis.set_major_locator(MaxNLocator(4))
    axis.zaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    if scale.log:
        axis.zaxis.set_major_formatter(FuncFormatter(_short_power))
    axis.view_init(elev=32, azim=-58)


def _short(value: float, _: object = None) -> str:
    return f"{value:.3g}"


def _short_power(value: float, _: object = None) -> str:
    return f"{10**value:.2g}"


def _profiles(
    axis: Any, results: Mapping[str, LandscapeResult], log: bool, vmin: float | None, vmax: float | None
) -> None:
    """Draw losses with a band of one standard error, and accuracies, dashed, on an axis of their own."""
    right: Any = None
    for i, (name, result) in enumerate(results.items()):
        colour = COLOURS[i % len(COLOURS)]
        loss, error = np.where(np.isfinite(result.loss[0]), result.loss[0], np.nan), result.error[0]
        axis.plot(result.x, loss, color=colour, linewidth=1.4, label=name)
        axis.fill_between(result.x, loss - error, loss + error, color=colour, alpha=0.25, linewidth=0)
        lost = result.known[0] & ~np.isfinite(result.loss[0])
        if lost.any():
            top = np.full(int(lost.sum()), 0.97)
            axis.plot(
                result.x[lost], top, "x", color=colour, transform=axis.get_xaxis_transform(), markersize=4,
                label=f"not finite ({lost.sum()})",
            )  # fmt: skip
        if np.isfinite(result.accuracy).any():
            right = right or axis.twinx()
            right.plot(result.x, 100 * result.accuracy[0], color=colour, linewidth=1, linestyle="--")
        for mark in result.plane.marks:
            axis.axvline(mark.x, color="0.6", linewidth=0.6)
    axis.axvline(0, color="0.6", linewidth=0.6)
    if log:
        axis.set_yscale("log")
    axis.set_ylim(vmin, vmax)
    axis.set_xlabel(_axis_name(next(iter(results.values())), 0))
    axis.set_ylabel("loss (solid, with standard error)" if right else "loss")
    if right:
        right.set_ylabel("accuracy, % (dashed)")
        right.set_ylim(0, 102)
    axis.legend(fontsize=7, frameon=False)


def _axis_name(result: LandscapeResult, k: int) -> str:
    """Return what a coordinate is along."""
    plane, letter = result.plane, "ab"[k]
    if plane.kind == "pca":
        return f"{letter}: component {k + 1} ({100 * plane.values[k]:.3g} % of the variance)"
    if plane.kind == "hessian":
        return rf"{letter}: eigenvector {k + 1} ($\lambda$ = {plane.values[k]:.4g})"
    if plane.kind == "checkpoints":
        return f"{letter}: towards {plane.marks[k].name}"
    norm = {"filter": ", filter-normalised", "layer": ", layer-normalised", "none": ""}[plane.norm]
    return f"{letter}: random direction {k + 1}{norm}"


def _title(name: str, result: LandscapeResult) -> str:
    lost = f", {result.nan_cells} cells not finite" if result.nan_cells else ""
    return f"{name}\nloss {result.centre.loss:.4g} at the centre, {result.highest:.4g} at most{lost}"

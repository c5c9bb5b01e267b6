"""How all figures look: colours that the colour-blind can tell apart, line styles for print, sizes, legends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sharpkit.libraries import imported

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito (2008), darker ones first."""

LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

TITLE, SMALL = 9, 7
"""Sizes of text, points."""

GREY = "0.4"


def colour(i: int) -> str:
    """Return the colour of the i-th thing shown."""
    return COLOURS[i % len(COLOURS)]


def line(i: int) -> Any:
    """Return the line style of the i-th thing shown, so that a print without colour can be read."""
    return LINES[i % len(LINES)]


def marker(i: int) -> str:
    """Return the marker of the i-th thing shown."""
    return MARKERS[i % len(MARKERS)]


def panels(rows: int, columns: int, *, width: float, height: float, **options: Any) -> tuple[Figure, Any]:
    """Return a figure with a grid of axes, (rows, columns), without the frame's top and right side.

    Args:
        rows: Rows of panels.
        columns: Columns of panels.
        width: Of the figure, inches.
        height: Of the figure, inches.
        options: Of matplotlib's `subplots`.

    Raises:
        InputError: If matplotlib cannot be imported.
    """
    figure = blank(width, height)
    axes: Any = figure.subplots(rows, columns, squeeze=False, **options)
    for axis in np.ravel(axes):
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(which="both", labelsize=SMALL + 1)
        axis.xaxis.label.set_size(TITLE)
        axis.yaxis.label.set_size(TITLE)
    return figure, axes


def blank(width: float, height: float) -> Figure:
    """Return a figure without panels, of a size in inches.

    Raises:
        InputError: If matplotlib cannot be imported.
    """
    library = imported("matplotlib.figure", "a figure", "give --no-plot or --out FILE.npz")
    return library.Figure(figsize=(width, height), layout="constrained")


def legend_above(figure: Figure, axis: Any, columns: int) -> None:
    """Put the legend of an axis above all panels, where it covers no data."""
    handles, labels = axis.get_legend_handles_labels()
    if labels:
        figure.legend(handles, labels, loc="outside upper left", ncols=columns, fontsize=SMALL + 1, frameon=False)

"""The cells of a grid: every one evaluated, or interpolated where that is good enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from sharpkit.diagnostics.surfaces import chebyshev
from sharpkit.diagnostics.surfaces.cells import Cells
from sharpkit.diagnostics.surfaces.chebyshev import Interpolation, Transform
from sharpkit.diagnostics.surfaces.surface import Point, Surface

Array = NDArray[np.float64]

Watch = Callable[[int, int, float], bool]
"""`(points known, points wanted, loss of the last one) -> go on?`."""


class Filling:
    """Evaluates the cells of a grid that are not known, as far as they are needed.

    Args:
        surface: To evaluate points.
        cells: What is known; gets what is evaluated.
        xs: Coordinates along d1.
        ys: Coordinates along d2.
        watch: Called after every point.
    """

    def __init__(
        self, surface: Surface, cells: Cells, xs: Sequence[float], ys: Sequence[float], watch: Watch | None
    ) -> None:
        self.stopped = False
        self.interpolation: Interpolation | None = None
        self.values: Array = np.full((3, len(ys), len(xs)), np.nan)
        self.known: NDArray[np.bool_] = np.zeros((len(ys), len(xs)), bool)
        self.interpolated: NDArray[np.bool_] = np.zeros_like(self.known)
        self._surface, self._cells, self._xs, self._ys, self._watch = surface, cells, xs, ys, watch

    def run(self, tol: float | None, scale: Transform = "loss") -> None:
        """Fill the grid.

        Args:
            tol: Interpolate within this part of the surface's range; None evaluates every cell.
            scale: What that range is of.
        """
        filled = None
        if tol is not None:
            filled = chebyshev.fill(self._cells, self._xs, self._ys, tol, self._points, scale=scale)
            self.interpolation = filled.how if filled is not None else None
        if filled is None or filled.values is None:
            missing = self._cells.missing(self._xs, self._ys)
            self._evaluate(missing, self.known.size - len(missing))
        self.known = np.array([[(a, b) in self._cells for a in self._xs] for b in self._ys])
        self.values = self._cells.grid(self._xs, self._ys)
        if filled is not None and filled.values is not None:
            self.values, self.interpolated = filled.values, ~self.known
            self.known = np.ones_like(self.known)

    def _points(self, wanted: Sequence[Point]) -> bool:
        return self._evaluate([point for point in wanted if point not in self._cells], len(self._cells))

    def _evaluate(self, points: Sequence[Point], known: int) -> bool:
        """Evaluate points; return whether nothing stopped it."""
        if self.stopped:
            return False
        for number, (point, cell) in enumerate(self._surface.many(points), 1):
            self._cells.add(point, cell)
            if self._watch is not None and not self._watch(known + number, self.known.size, cell.loss):
                self.stopped = known + number < self.known.size
                return not self.stopped
        return True

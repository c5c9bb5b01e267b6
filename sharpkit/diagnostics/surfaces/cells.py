"""Points that have been evaluated: of one grid or of several, in any order."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sharpkit.core.comm import Comm
from sharpkit.diagnostics.surfaces.surface import Cell, Point

Array = NDArray[np.float64]

_DIGITS = 10
"""Decimals of coordinates that are compared; points of grids of different steps coincide up to rounding."""


class Cells:
    """Loss, accuracy and standard error by point.

    Args:
        points: (M, 2).
        values: (M, 3): loss, accuracy and standard error of each.
    """

    def __init__(self, points: Array | None = None, values: Array | None = None) -> None:
        self._held: dict[Point, tuple[Point, Cell]] = {}
        if points is not None and values is not None:
            for (a, b), (loss, accuracy, error) in zip(points.tolist(), values.tolist(), strict=True):
                self.add((a, b), Cell(loss, accuracy, error))

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, point: Point) -> bool:
        return _key(point) in self._held

    def __getitem__(self, point: Point) -> Cell:
        return self._held[_key(point)][1]

    def add(self, point: Point, cell: Cell) -> None:
        """Keep what is known of a point."""
        self._held[_key(point)] = (point, cell)

    def share(self, comm: Comm) -> None:
        """Add what other ranks know; of a point that several know, what the first of them does."""
        if comm.size == 1:
            return
        for points, values in reversed(comm.objects(self.arrays())):
            self._held |= Cells(points, values)._held

    def arrays(self) -> tuple[Array, Array]:
        """Return points (M, 2) and values (M, 3), in the order in which they came."""
        points = [point for point, _ in self._held.values()]
        values = [(cell.loss, cell.accuracy, cell.error) for _, cell in self._held.values()]
        return np.array(points, float).reshape(-1, 2), np.array(values, float).reshape(-1, 3)

    def grid(self, x: Sequence[float], y: Sequence[float]) -> Array:
        """Return loss, accuracy and standard error at every y_j, x_i, (3, ny, nx); NaN where nothing is known."""
        found = np.full((3, len(y), len(x)), math.nan)
        for j, b in enumerate(y):
            for i, a in enumerate(x):
                if (a, b) in self:
                    cell = self[a, b]
                    found[:, j, i] = cell.loss, cell.accuracy, cell.error
        return found

    def missing(self, x: Sequence[float], y: Sequence[float]) -> list[Point]:
        """Return the points of a grid of which nothing is known, row by row."""
        return [(a, b) for b in y for a in x if (a, b) not in self]


def _key(point: Point) -> Point:
    return round(point[0], _DIGITS) + 0.0, round(point[1], _DIGITS) + 0.0

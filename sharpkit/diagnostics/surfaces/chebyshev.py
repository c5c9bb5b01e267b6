"""A surface from few evaluations: tensor Chebyshev interpolation, refined until held-out cells agree."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sharpkit.diagnostics.surfaces.cells import Cells
from sharpkit.diagnostics.surfaces.surface import Point

Array = NDArray[np.float64]

Evaluate = Callable[[Sequence[Point]], bool]
"""Evaluates what is not known of some points; False says stop."""

Transform = Literal["loss", "log loss"]
"""What is interpolated, or compared."""

_FIRST = 5
"""Nodes along an axis at first; 9, 17, 33 and so on hold those before."""

_HELD_OUT, _SHARE = 16, 0.01
"""Cells that an interpolant is compared with: at least so many, and that part of the grid."""

_WORTH = 0.5
"""The part of the grid beyond which the whole grid is evaluated instead."""

_EVEN = 4.0
"""Both axes are refined unless the last coefficients along one are larger than those along the other by this factor."""


@dataclass(frozen=True)
class Interpolation:
    """How a surface was filled from few evaluations, or why it was not.

    Differences are of losses, or with `scale` "log loss" of their logarithms, and relative to the range of the same.

    Args:
        accepted: Whether the surface is interpolated; else the whole grid was evaluated.
        reason: Why not; empty where it is.
        nodes: Along d1 and d2.
        of: What is interpolated.
        scale: What is compared.
        tol: What the largest difference may be, relative to the surface's range.
        error: The largest difference on the checked cells, relative to the surface's range.
        rms: The root mean square of these.
        checked: Cells that the interpolant is compared with; those that decided are used for nothing else.
    """

    accepted: bool
    reason: str
    nodes: tuple[int, int]
    of: Transform
    scale: Transform
    tol: float
    error: float
    rms: float
    checked: int


@dataclass(frozen=True)
class Filled:
    """A grid filled by an interpolant: loss, accuracy and standard error, (3, ny, nx), or nothing."""

    values: Array | None
    how: Interpolation


def fill(
    cells: Cells,
    xs: Sequence[float],
    ys: Sequence[float],
    tol: float,
    evaluate: Evaluate,
    *,
    scale: Transform = "loss",
    seed: int = 0,
) -> Filled | None:
    """Interpolate the loss on a grid from Chebyshev-Lobatto points until its error is at most tol times its range.

    The points of every level hold those of the level before, so nothing is evaluated twice. The interpolant, of the
    loss or of its logarithm, is compared with cells of the grid that are drawn at random. Where it agrees, as many new
    ones decide, of which nothing has depended so far. If n of n agree, at most a part p of all cells is off, with the
    confidence 1 - (1 - p)^n: for n = 25 at most 11 % of them with 95 %.

    Args:
        cells: Points that are known; `evaluate` adds to them.
        xs: Of the grid.
        ys: Of the grid; a single one of a profile.
        tol: Largest difference, relative to the range of the losses seen.
        evaluate: Evaluates points.
        scale: Whether losses are compared or their logarithms, as a logarithmic picture needs it.
        seed: Of the cells drawn.

    Returns:
        The grid, or why there is none; None if it was stopped.
    """
    total = len(xs) * len(ys)
    count = min(total, max(_HELD_OUT, round(_SHARE * total)))
    order = np.random.default_rng(seed).permutation(total)
    drawn: list[Point] = [(xs[int(k) % len(xs)], ys[int(k) // len(xs)]) for k in order]
    held, taken = drawn[:count], count
    sizes = [_FIRST, _FIRST if len(ys) > 1 else 1]
    if not evaluate(held):
        return None
    best = Interpolation(False, "", (0, 0), "loss", scale, tol, math.nan, math.nan, 0)
    while True:
        if sizes[0] * sizes[1] + len(held) > _WORTH * total:
            return Filled(None, _refused(best, "it is not smooth enough for fewer evaluations"))
        nodes = _nodes(xs, sizes[0]), _nodes(ys, sizes[1])
        points = [(a, b) for b in nodes[1] for a in nodes[0]]
        if not evaluate(points):
            return None
        values = cells.grid(*nodes)
        seen = np.array([cells[point].loss for point in (*points, *held)])
        if not np.isfinite(seen).all() or (scale == "log loss" and (seen <= 0).any()):
            return Filled(None, _refused(best, "some losses are not finite, or have no logarithm"))
        best = min((_compared(cells, held, nodes, of, best) for of in _transforms(seen)), key=lambda found: found.error)
        if best.error <= tol:
            fresh, taken = drawn[taken : taken + count], min(total, taken + count)
            if not evaluate(fresh):
                return None
            if all(math.isfinite(cells[point].loss) for point in fresh):
                decided = _compared(cells, fresh or held, nodes, best.of, best)
                if decided.error <= tol:
                    return Filled(_filled(cells, xs, ys, nodes, best.of), decided)
            held = [*held, *fresh]
            if sizes[0] * sizes[1] >= total:
                return Filled(None, _refused(best, "it is not smooth enough for fewer evaluations"))
        sizes = _refined(values[0], sizes)


def _refused(found: Interpolation, reason: str) -> Interpolation:
    return replace(found, accepted=False, reason=reason)


def _nodes(grid: Sequence[float], count: int) -> list[float]:
    """Return Chebyshev-Lobatto points between the ends of a grid, increasing; a single one is the grid's."""
    if count == 1:
        return [grid[0]]
    low, high = grid[0], grid[-1]
    places = -np.cos(math.pi * np.arange(count) / (count - 1))
    return [float(low + (high - low) * (1 + place) / 2) for place in places]


def matrix(nodes: Sequence[float], places: Sequence[float]) -> Array:
    """Return the matrix (len(places), len(nodes)) that interpolates values at Chebyshev-Lobatto points elsewhere.

    The barycentric formula with weights (-1)^k, half at the ends (Berrut and Trefethen 2004, eq. 5.4).
    """
    if len(nodes) == 1:
        return np.ones((len(places), 1))
    weights = (-1.0) ** np.arange(len(nodes))
    weights[[0, -1]] /= 2
    gaps = np.subtract.outer(np.asarray(places), np.asarray(nodes))
    close = np.abs(gaps) <= 1e-13 * (nodes[-1] - nodes[0])
    gaps[close] = 1.0
    rows = weights / gaps
    rows[close.any(1)] = close[close.any(1)]
    return rows / rows.sum(1, keepdims=True)


def _transforms(seen: Array) -> list[Transform]:
    return ["loss", "log loss"] if (seen > 0).all() else ["loss"]


def _loss_at(cells: Cells, nodes: tuple[list[float], list[float]], of: Transform, points: Sequence[Point]) -> Array:
    """Return the interpolant at points, (n,)."""
    values = cells.grid(*nodes)[0]
    values = np.log(values) if of == "log loss" else values
    across, along = matrix(nodes[0], [a for a, _ in points]), matrix(nodes[1], [b for _, b in points])
    found: Array = np.einsum("nj,ji,ni->n", along, values, across)
    return np.exp(found) if of == "log loss" else found


def _compared(
    cells: Cells,
    points: Sequence[Point],
    nodes: tuple[list[float], list[float]],
    of: Transform,
    asked: Interpolation,
) -> Interpolation:
    """Return how far an interpolant is off at points; an infinite difference where it has no logarithm."""
    true = np.array([cells[point].loss for point in points])
    found, known = _loss_at(cells, nodes, of, points), cells.grid(*nodes)[0].ravel()
    if asked.scale == "log loss":
        with np.errstate(invalid="ignore", divide="ignore"):
            found, true, known = np.log(found), np.log(true), np.log(known)
        found = np.where(np.isnan(found), -np.inf, found)
    spread = float(np.ptp(np.concatenate([true, known]))) or 1.0
    with np.errstate(over="ignore"):
        off = np.abs(found - true) / spread
    rms = float(np.sqrt((off**2).mean()))
    return replace(
        asked, accepted=True, reason="", nodes=(len(nodes[0]), len(nodes[1])), of=of, error=float(off.max()), rms=rms,
        checked=len(points),
    )  # fmt: skip


def _filled(
    cells: Cells, xs: Sequence[float], ys: Sequence[float], nodes: tuple[list[float], list[float]], of: Transform
) -> Array:
    """Return loss, accuracy and standard error on the grid, (3, ny, nx); what is known stays as it is."""
    across, along = matrix(nodes[0], xs), matrix(nodes[1], ys)
    values = cells.grid(*nodes)
    loss = np.log(values[0]) if of == "log loss" else values[0]
    found = np.stack([along @ part @ across.T for part in (loss, values[1], values[2])])
    if of == "log loss":
        found[0] = np.exp(found[0])
    elif (values[0] >= 0).all():
        found[0] = np.maximum(found[0], 0)
    found[1], found[2] = np.clip(found[1], 0, 1), np.maximum(found[2], 0)
    known = cells.grid(xs, ys)
    here = np.array([[(a, b) in cells for a in xs] for b in ys])
    return np.where(here, known, found)


def _refined(loss: Array, sizes: list[int]) -> list[int]:
    """Return twice as many intervals along the axis whose last coefficients are larger, or along both."""
    if sizes[1] == 1:
        return [2 * sizes[0] - 1, 1]
    x, y = _tail(loss, 1), _tail(loss, 0)
    return [
        2 * sizes[0] - 1 if _EVEN * x >= y else sizes[0],
        2 * sizes[1] - 1 if _EVEN * y >= x else sizes[1],
    ]


def _tail(loss: Array, axis: int) -> float:
    """Return the size of the upper half of the Chebyshev coefficients along an axis."""
    values = np.moveaxis(loss, axis, 0)
    count = len(values) - 1
    mirrored = np.concatenate([values, values[-2:0:-1]])
    coefficients = np.abs(np.fft.rfft(mirrored, axis=0)) / count
    return float(np.sqrt((coefficients[count // 2 + 1 :] ** 2).sum()))

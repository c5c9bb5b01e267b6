"""The loss over a plane through the weights: surfaces and profiles."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from torch import nn

from sharpkit.core.comm import ALONE, Comm
from sharpkit.core.precision import Mode
from sharpkit.core.task import Batch, LossFunction, Task
from sharpkit.diagnostics.measured import as_it_was
from sharpkit.diagnostics.sharing import unanimous
from sharpkit.diagnostics.surfaces.cells import Cells
from sharpkit.diagnostics.surfaces.centre import CentreCheck, Slope, exact_slopes, fitted_slopes
from sharpkit.diagnostics.surfaces.chebyshev import Transform
from sharpkit.diagnostics.surfaces.convexity import convexity as convexity_of
from sharpkit.diagnostics.surfaces.directions import Ignore, Norm
from sharpkit.diagnostics.surfaces.filling import Filling, Watch
from sharpkit.diagnostics.surfaces.landscape_result import LandscapeResult
from sharpkit.diagnostics.surfaces.plane import Plane, random_plane
from sharpkit.diagnostics.surfaces.surface import BnMode, Surface, cut, opened_surface
from sharpkit.errors import InputError, UsageError, check_range

FIFTY = tuple(float(value) for value in np.linspace(-1, 1, 50))
"""Fifty points from -1 to 1, as in the Sparse SAM paper's figure 4; none of them is 0."""

_DIFFERENTIATED = 256
"""Samples of a batch that derivatives are taken of."""

_COMPARED = 8
"""Cells that are evaluated in full precision too, to measure the error of a lower one."""


@as_it_was
def landscape(
    model: nn.Module,
    loss: LossFunction | Task,
    batches: Iterable[Any],
    *,
    x: ArrayLike = FIFTY,
    y: ArrayLike | None = FIFTY,
    plane: Plane | None = None,
    norm: Norm = "filter",
    ignore: Ignore = "biasbn",
    seed: int = 0,
    orthogonal: bool = False,
    bn_mode: BnMode = "eval",
    amp: Mode = "off",
    chunk: int | None = None,
    check: bool = True,
    adaptive: float | None = None,
    adaptive_scale: Transform = "loss",
    convex: int = 0,
    cells: Cells | None = None,
    watch: Watch | None = None,
    comm: Comm = ALONE,
) -> LandscapeResult:
    """Return the mean loss of the samples over the plane w + a d1 + b d2 (Li et al. 2018).

    Every point is made anew from w, batch norm is in evaluation mode, and the weights come back bit for bit.

    Args:
        model: On the device of the batches; comes back as it was.
        loss: `(outputs, targets, reduction="none") -> (B,)`, or a task.
        batches: `(inputs, targets)` of any sizes; every sample weighs the same.
        x: Coordinates along d1, increasing.
        y: Along d2; None gives a profile along d1.
        plane: Of other directions: `hessian_plane`, `pca_plane` or `checkpoint_plane`. None takes random ones.
        norm: What of random directions gets the norm of the weights; see `random_directions`.
        ignore: What random directions leave alone.
        seed: Of random directions.
        orthogonal: Whether the second random direction is made orthogonal to the first.
        bn_mode: `eval` uses the stored statistics; `recompute` at every point those that the batches have there.
        amp: `bf16` evaluates under autocast and measures the error.
        chunk: Samples evaluated at once; None measures.
        check: Whether slope and curvature at the centre are compared with derivatives.
        adaptive: Largest error, relative to the surface's range, of a surface from fewer evaluations; see
            `sharpkit.diagnostics.surfaces.chebyshev`. None evaluates every cell, as where it is not smooth enough.
        adaptive_scale: `log loss` compares logarithms, as a picture with a logarithmic scale needs it.
        convex: Points along each axis at which the extreme eigenvalues of the Hessian are computed too; costly.
        cells: Points that are known already; gets those that are evaluated, as they come.
        watch: Called after every point; may stop it, on any rank, and what is there then is returned.
        comm: Ranks that share the samples of every point. All are given the same model, batches and plane, and return
            the same; points that one of them knows are known to all.

    Raises:
        UsageError: If a value is not allowed.
        InputError: If the loss at the centre is not that of the checkpoint.
        DivergedError: If the loss at w is not finite.
    """
    start = time.perf_counter()
    xs, ys = coordinates("x", x), coordinates("y", 0.0 if y is None else y)
    if adaptive is not None:
        check_range("adaptive", adaptive, 0, 1, open_low=True, open_high=True)
    given = [Batch.of(batch) for batch in batches]
    pieces = [piece for batch in given for piece in cut(batch, _DIFFERENTIATED)]
    axes = 1 if y is None else 2
    if plane is None:
        plane = random_plane(model, axes, norm=norm, ignore=ignore, seed=seed, orthogonal=orthogonal)
    if len(plane.axes) != axes:
        raise UsageError(
            f"the plane has {len(plane.axes)} directions and y is {'not ' if y is None else ''}given",
            "give y for a surface, and None for a profile",
        )
    held = Cells() if cells is None else cells
    held.share(comm)
    watch = unanimous(watch, comm, next(model.parameters()).device)
    before, missing = len(held), held.missing(xs, ys)
    exact, notes = _derivatives(model, loss, pieces, plane, comm) if check and bn_mode == "eval" else ((), [])
    with opened_surface(
        model, loss, given, plane, bn_mode=bn_mode, amp=amp, chunk=chunk, points=len(missing), comm=comm
    ) as surface:
        held.add((0.0, 0.0), surface.centre)
        checked = _checked(surface, exact, (xs, ys)[:axes])
        filling = Filling(surface, held, xs, ys, watch)
        filling.run(adaptive, adaptive_scale)
        amp_error = _amp_error(surface, held, xs, ys) if amp != "off" else math.nan
    convexity = None
    if convex and not filling.stopped:
        places = [np.linspace(v[0], v[-1], min(convex, len(v))).tolist() for v in (xs, ys)]
        convexity = convexity_of(model, loss, pieces, plane, *places, watch=_told(watch), comm=comm)
    if filling.interpolation is not None and not filling.interpolation.accepted:
        notes.append(f"the whole grid was evaluated: {filling.interpolation.reason}")
    return LandscapeResult(
        plane=plane,
        x=np.array(xs),
        y=np.array(ys),
        loss=filling.values[0],
        accuracy=filling.values[1],
        error=filling.values[2],
        known=filling.known,
        interpolated=filling.interpolated,
        centre=held[0.0, 0.0],
        checkpoint=surface.checkpoint,
        samples=surface.samples,
        parameters=sum(t.numel() for t in plane.axes[0]),
        bn_mode=bn_mode,
        amp=amp,
        amp_error=amp_error,
        how=surface.how,
        evaluations=len(held) - before,
        reused=len(xs) * len(ys) - len(missing),
        seconds=time.perf_counter() - start,
        complete=not filling.stopped and (convexity is None or convexity.complete),
        check=checked,
        interpolation=filling.interpolation,
        convexity=convexity,
        notes=(*plane.notes, *notes, *surface.notes),
    )


def _derivatives(
    model: nn.Module, loss: LossFunction | Task, batches: Sequence[Batch], plane: Plane, comm: Comm
) -> tuple[tuple[Slope, ...], list[str]]:
    """Return slopes and curvatures at the centre, or why there are none."""
    if plane.buffers:
        return (), ["the centre was not checked against derivatives, which are by weights: buffers move as well"]
    try:
        return exact_slopes(model, loss, batches, plane, comm)
    except InputError as error:
        return (), [f"the centre was not checked against derivatives: {error.message}"]


def _checked(surface: Surface, exact: Sequence[Slope], grids: Sequence[Sequence[float]]) -> CentreCheck | None:
    """Return the same from the surface, in the model's own precision."""
    if not exact:
        return None
    with surface.precise():
        return fitted_slopes(surface, Cells(), exact, [(grid[-1] - grid[0]) / 2 or 1.0 for grid in grids])


def _told(watch: Watch | None) -> Callable[[int, int], bool] | None:
    return None if watch is None else lambda done, wanted: watch(done, wanted, math.nan)


def coordinates(name: str, values: ArrayLike) -> list[float]:
    """Return coordinates of a grid, checked.

    Raises:
        UsageError: If they are not finite numbers that increase.
    """
    array = np.atleast_1d(np.asarray(values, float))
    if array.ndim != 1 or not array.size or not np.isfinite(array).all() or (np.diff(array) <= 0).any():
        raise UsageError(f"{name} is no list of finite numbers that increase", "give numpy.linspace(-1, 1, 50)")
    return [float(value) for value in array]


def _amp_error(surface: Surface, held: Cells, xs: Sequence[float], ys: Sequence[float]) -> float:
    """Return the largest relative error of a few cells, spread over the grid, and of the centre."""
    points = [(a, b) for b in ys for a in xs if (a, b) in held]
    chosen = [(0.0, 0.0), *points[:: max(1, len(points) // _COMPARED)]]
    errors: list[float] = []
    with surface.precise():
        for point in chosen:
            true = surface.at(*point).loss
            if math.isfinite(true) and math.isfinite(held[point].loss):
                errors.append(abs(held[point].loss - true) / max(abs(true), 1e-12))
    return max(errors, default=math.nan)

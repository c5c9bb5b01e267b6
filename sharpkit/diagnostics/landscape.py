"""The loss over a plane through the weights: surfaces and profiles, with what is needed to read them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import nn

from sharpkit.core.precision import Mode
from sharpkit.core.task import Batch, LossFunction, Task
from sharpkit.diagnostics import numbers
from sharpkit.diagnostics.cells import Cells
from sharpkit.diagnostics.centre import CentreCheck, Slope, exact_slopes, fitted_slopes
from sharpkit.diagnostics.directions import Ignore, Norm
from sharpkit.diagnostics.plane import Plane, random_plane
from sharpkit.diagnostics.surface import BnMode, Cell, Point, Surface, opened_surface
from sharpkit.errors import InputError, UsageError

Array = NDArray[np.float64]

Watch = Callable[[int, int, float], bool]
"""`(points known, points wanted, loss of the last one) -> go on?`."""

FIFTY = tuple(float(value) for value in np.linspace(-1, 1, 50))
"""Fifty points from -1 to 1, as in the Sparse SAM paper's figure 4; none of them is 0."""

_COMPARED = 8
"""Cells that are evaluated in full precision too, to measure the error of a lower one."""


@dataclass(frozen=True)
class LandscapeResult:
    """The loss at w + x_i d1 + y_j d2 for every i and j, or of a profile at w + x_i d1.

    Args:
        plane: The directions, and checkpoints in their plane.
        x: (nx,), in units of d1.
        y: (ny,), in units of d2; of a profile (1,), 0.
        loss: (ny, nx); NaN where it is not known, or is not a number there.
        accuracy: (ny, nx); NaN where outputs are no classes.
        error: (ny, nx); standard error of the loss over the samples.
        known: (ny, nx); whether a cell has a value, which may be infinite or NaN.
        centre: At w, evaluated like every other point.
        checkpoint: At w, evaluated by the model as it is.
        samples: N.
        parameters: How many the directions move.
        bn_mode: Which statistics batch norm used.
        amp: Precision of the passes.
        amp_error: The largest relative error of a few cells by it; NaN in full precision.
        how: How points were evaluated, in words.
        evaluations: Points evaluated by this call, all together.
        reused: Cells that were known before.
        seconds: Time for all of it.
        complete: Whether nothing was stopped before its end.
        check: Slope and curvature at the centre, by differences and by derivatives.
        notes: What a reader should know.
    """

    plane: Plane
    x: Array
    y: Array
    loss: Array
    accuracy: Array
    error: Array
    known: NDArray[np.bool_]
    centre: Cell
    checkpoint: Cell
    samples: int
    parameters: int
    bn_mode: BnMode
    amp: Mode
    amp_error: float
    how: str
    evaluations: int
    reused: int
    seconds: float
    complete: bool
    check: CentreCheck | None
    notes: tuple[str, ...]

    @property
    def profile(self) -> bool:
        """Whether there is one direction only."""
        return len(self.plane.axes) == 1

    @property
    def lowest(self) -> float:
        """The smallest finite loss of a cell; NaN if there is none."""
        finite = self.loss[np.isfinite(self.loss)]
        return float(finite.min()) if finite.size else math.nan

    @property
    def highest(self) -> float:
        """The largest finite loss of a cell; NaN if there is none."""
        finite = self.loss[np.isfinite(self.loss)]
        return float(finite.max()) if finite.size else math.nan

    @property
    def nan_cells(self) -> int:
        """Cells whose loss is not a finite number."""
        return int((self.known & ~np.isfinite(self.loss)).sum())

    @property
    def half_width(self) -> float:
        """The radius of the largest circle about the centre that lies on the grid."""
        return numbers.half_width(self.x, self.y)

    def mean_rise(self, radius: float | None = None) -> float:
        """Return the mean of L - L(w) over the circle of a radius, in units of the directions.

        Args:
            radius: None takes half of the largest on the grid.

        Raises:
            UsageError: If the circle is not on the grid.
        """
        r = self.half_width / 2 if radius is None else radius
        if not 0 < r <= self.half_width:
            if radius is None:
                return math.nan
            raise UsageError(f"radius is {r:g}, allowed is (0, {self.half_width:g}]", "widen --x and --y")
        return numbers.mean_rise(self.x, self.y, self.loss, self.centre.loss, r)

    def fraction_below(self, level: float) -> float:
        """Return the fraction of the cells whose loss is at most a level."""
        return numbers.fraction_below(self.loss, level)


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
    cells: Cells | None = None,
    watch: Watch | None = None,
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
        cells: Points that are known already; gets those that are evaluated, as they come.
        watch: Called after every point; may stop it, and what is there then is returned.

    Raises:
        UsageError: If a value is not allowed.
        InputError: If the loss at the centre is not that of the checkpoint.
        DivergedError: If the loss at w is not finite.
    """
    start = time.perf_counter()
    xs, ys = coordinates("x", x), coordinates("y", 0.0 if y is None else y)
    given = [Batch.of(batch) for batch in batches]
    if plane is None:
        axes = 1 if y is None else 2
        plane = random_plane(model, axes, norm=norm, ignore=ignore, seed=seed, orthogonal=orthogonal)
    if len(plane.axes) != (1 if y is None else 2):
        raise UsageError(
            f"the plane has {len(plane.axes)} directions and y is {'not ' if y is None else ''}given",
            "give y for a surface, and None for a profile",
        )
    held = Cells() if cells is None else cells
    known_before, notes = len(held), list[str]()
    missing = held.missing(xs, ys)
    exact: tuple[Slope, ...] = ()
    if check and bn_mode == "eval" and not plane.buffers:
        try:
            exact = exact_slopes(model, loss, given, plane)
        except InputError as error:
            notes.append(f"the centre was not checked against derivatives: {error.message}")
    with opened_surface(
        model, loss, given, plane, bn_mode=bn_mode, amp=amp, chunk=chunk, points=len(missing)
    ) as surface:
        held.add((0.0, 0.0), surface.at(0.0))
        checked = None
        if exact:
            with surface.precise():
                checked = fitted_slopes(surface, Cells(), exact, [_half(xs), _half(ys)][: len(exact)])
        complete = _fill(surface, held, missing, len(xs) * len(ys), watch)
        amp_error = _amp_error(surface, held, xs, ys) if amp != "off" else math.nan
        notes += surface.notes
        found = held.grid(xs, ys)
        return LandscapeResult(
            plane=plane,
            x=np.array(xs),
            y=np.array(ys),
            loss=found[0],
            accuracy=found[1],
            error=found[2],
            known=np.array([[(a, b) in held for a in xs] for b in ys]),
            centre=held[0.0, 0.0],
            checkpoint=surface.checkpoint,
            samples=surface.samples,
            parameters=sum(t.numel() for t in plane.axes[0]),
            bn_mode=bn_mode,
            amp=amp,
            amp_error=amp_error,
            how=surface.how,
            evaluations=len(held) - known_before,
            reused=len(xs) * len(ys) - len(missing),
            seconds=time.perf_counter() - start,
            complete=complete,
            check=checked,
            notes=tuple(notes),
        )


def coordinates(name: str, values: ArrayLike) -> list[float]:
    """Return coordinates of a grid, checked.

    Raises:
        UsageError: If they are not finite numbers that increase.
    """
    array = np.atleast_1d(np.asarray(values, float))
    if array.ndim != 1 or not array.size or not np.isfinite(array).all() or (np.diff(array) <= 0).any():
        raise UsageError(f"{name} is no list of finite numbers that increase", "give numpy.linspace(-1, 1, 50)")
    return [float(value) for value in array]


def _half(values: Sequence[float]) -> float:
    return (values[-1] - values[0]) / 2 or 1.0


def _fill(surface: Surface, held: Cells, missing: Sequence[Point], total: int, watch: Watch | None) -> bool:
    """Evaluate what is missing; return whether nothing stopped it."""
    known = total - len(missing)
    for point, cell in surface.many(missing):
        held.add(point, cell)
        known += 1
        if watch is not None and not watch(known, total, cell.loss):
            return known == total
    return True


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

"""What is known of the loss over a plane, with what is needed to read it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sharpkit.core.precision import Mode
from sharpkit.diagnostics.surfaces import numbers
from sharpkit.diagnostics.surfaces.centre import CentreCheck
from sharpkit.diagnostics.surfaces.chebyshev import Interpolation
from sharpkit.diagnostics.surfaces.convexity import Convexity
from sharpkit.diagnostics.surfaces.plane import Plane
from sharpkit.diagnostics.surfaces.surface import BnMode, Cell
from sharpkit.errors import UsageError

Array = NDArray[np.float64]


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
        interpolated: (ny, nx); whether that value is not evaluated but interpolated.
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
        interpolation: How cells were interpolated, or why not; None where not asked for.
        convexity: Eigenvalues of the Hessian at the points of a coarser grid; None where not asked for.
        notes: What a reader should know.
    """

    plane: Plane
    x: Array
    y: Array
    loss: Array
    accuracy: Array
    error: Array
    known: NDArray[np.bool_]
    interpolated: NDArray[np.bool_]
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
    interpolation: Interpolation | None
    convexity: Convexity | None
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

"""Numbers that a surface comes down to: the mean rise at a radius, and the part of it below a level."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_ANGLES = 360


def mean_rise(x: Array, y: Array, loss: Array, centre: float, radius: float) -> float:
    """Return the mean of L - L(w) over the circle a^2 + b^2 = r^2 of the plane; of a profile over a = -r and r.

    Between cells a cubic spline is taken, or where a cell is not finite, linear interpolation, which is NaN beside it.

    Args:
        x: (nx,), increasing.
        y: (ny,), increasing; of a profile (1,).
        loss: (ny, nx).
        centre: L(w).
        radius: In units of the directions; the circle must lie on the grid.
    """
    from scipy.interpolate import RectBivariateSpline, RegularGridInterpolator  # here, because it takes a while

    if len(y) == 1:
        ends = cast("Array", RegularGridInterpolator((x,), loss[0])([[-radius], [radius]]))
        return float(ends.mean()) - centre
    angle = 2 * math.pi * np.arange(_ANGLES) / _ANGLES
    a, b = radius * np.cos(angle), radius * np.sin(angle)
    if np.isfinite(loss).all():
        spline: Any = RectBivariateSpline(y, x, loss, kx=min(3, len(y) - 1), ky=min(3, len(x) - 1), s=0)
        values = cast("Array", spline(b, a, grid=False))
    else:
        values = cast("Array", RegularGridInterpolator((y, x), loss)(np.stack([b, a], 1)))
    return float(values.mean()) - centre


def fraction_below(loss: Array, level: float) -> float:
    """Return the fraction of the finite cells whose loss is at most a level; cells that overflowed count as above."""
    known = ~np.isnan(loss)
    return float((loss[known] <= level).mean()) if known.any() else math.nan


def half_width(x: Array, y: Array) -> float:
    """Return the radius of the largest circle about the centre that lies on the grid; 0 if the centre does not."""
    sides = [-x[0], x[-1]] if len(y) == 1 else [-x[0], x[-1], -y[0], y[-1]]
    return max(0.0, float(min(sides)))

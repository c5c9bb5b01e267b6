"""How convex the loss is at the points of a plane: the smallest over the largest eigenvalue of its Hessian."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from sharpkit.core.comm import ALONE, Comm
from sharpkit.core.task import LossFunction, Task
from sharpkit.diagnostics.curvature.spectrum import hessian
from sharpkit.diagnostics.measured import as_it_was
from sharpkit.diagnostics.surfaces.along import along
from sharpkit.diagnostics.surfaces.displaced import displaced
from sharpkit.diagnostics.surfaces.plane import Plane
from sharpkit.errors import DivergedError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Convexity:
    """The ends of the Hessian's spectrum on a grid, by all parameters, not by the two of the plane.

    Args:
        x: (nx,), in units of d1.
        y: (ny,), in units of d2.
        smallest: (ny, nx); algebraically smallest eigenvalues, NaN where the loss is not finite.
        largest: (ny, nx); algebraically largest.
        converged: (ny, nx); whether both residuals are within the tolerance.
        products: Products with Hessians, all together.
        complete: Whether nothing was stopped before its end.
    """

    x: Array
    y: Array
    smallest: Array
    largest: Array
    converged: NDArray[np.bool_]
    products: int
    complete: bool

    @property
    def ratio(self) -> Array:
        """|smallest / largest|, (ny, nx); small where the loss is nearly convex (Li et al. 2018, section 6)."""
        return np.abs(self.smallest / self.largest)


@as_it_was
def convexity(
    model: nn.Module,
    loss: LossFunction | Task,
    batches: Iterable[Any],
    plane: Plane,
    xs: Sequence[float],
    ys: Sequence[float],
    *,
    tol: float = 1e-2,
    seed: int = 0,
    watch: Callable[[int, int], bool] | None = None,
    comm: Comm = ALONE,
) -> Convexity:
    """Return the smallest and largest eigenvalue of the Hessian at w + a d1 + b d2 for every b and a.

    Args:
        model: At w; comes back as it was.
        loss: As for `hessian`.
        batches: As for `hessian`; batch norm uses its stored statistics.
        plane: Of directions.
        xs: Along d1.
        ys: Along d2.
        tol: Residual, relative to the eigenvalue.
        seed: Of Lanczos.
        watch: `(points done, points wanted) -> go on?`, the same on all ranks; the rest is NaN if not.
        comm: The ranks that share the samples.
    """
    given = list(batches)
    shape = len(ys), len(xs)
    smallest, largest = np.full(shape, np.nan), np.full(shape, np.nan)
    converged, products, complete = np.zeros(shape, bool), 0, True
    cells = [(j, i) for j in range(len(ys)) for i in range(len(xs))]
    with along(model, plane), displaced(model, plane) as moved:
        for number, (j, i) in enumerate(cells, 1):
            moved.move(xs[i], ys[j])
            try:
                first = number == 1  # products at one point tell of all
                found = hessian(
                    model, loss, given, top=1, bottom=1, tol=tol, seed=seed, verify=False, self_check=first, comm=comm
                )
            except DivergedError:
                continue
            assert found.smallest is not None
            smallest[j, i], largest[j, i] = found.smallest.values[0], found.eigenvalues[0]
            converged[j, i] = bool(found.converged.all() and found.smallest.converged.all())
            products += found.products
            if watch is not None and not watch(number, len(cells)):
                complete = number == len(cells)
                break
    return Convexity(np.array(xs), np.array(ys), smallest, largest, converged, products, complete)

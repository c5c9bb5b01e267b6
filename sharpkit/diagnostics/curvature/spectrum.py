"""The spectrum of a loss's curvature: eigenvalues at its ends, density and trace, from one Lanczos basis."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sharpkit.core.base import layer_of
from sharpkit.core.comm import ALONE, Comm
from sharpkit.core.task import Batch, LossFunction, Task
from sharpkit.diagnostics import memory
from sharpkit.diagnostics.curvature.analysis import Elsewhere, Wanted, analyse
from sharpkit.diagnostics.curvature.backends import arpack, pyhessian
from sharpkit.diagnostics.curvature.density import Density
from sharpkit.diagnostics.curvature.eigenvalues import Eigenpairs, Watch
from sharpkit.diagnostics.curvature.lanczos import Array
from sharpkit.diagnostics.curvature.matrices import Curvature, Kind, Products
from sharpkit.diagnostics.curvature.self_check import SKIPPED, SelfCheck, verified
from sharpkit.diagnostics.curvature.trace import Trace
from sharpkit.diagnostics.problem import BnMode, Problem, opened
from sharpkit.diagnostics.sharing import unanimous
from sharpkit.errors import UsageError

_SLICES = 16
"""Pieces that the samples are cut into for error bars, at least, and for a trace where they are not too small."""

_SMALLEST = 32
"""Samples of such a piece for a trace, at least; more pieces err less, and smaller ones make products dearer."""

_PIECE = 128
"""Samples of a piece for a trace, at most."""


@dataclass(frozen=True)
class SpectrumResult:
    """The spectrum of a curvature matrix A of a loss, with what is needed to read it.

    Eigenvalues are in units of the loss over the square of the weights, sorted from the largest down.

    Args:
        kind: `hessian`, `ggn` or `fisher`.
        eigenvalues: (k,); the algebraically largest.
        residuals: (k,); |A v - lambda v| for unit v: an eigenvalue of A is that near, or nearer.
        converged: (k,); whether the residual is within the tolerance.
        errors: (k,); standard errors over the samples, NaN where not asked for.
        smallest: The same at the other end, None where not asked for.
        none_missing: Whether no eigenvalue beyond those found was missed, such as a further copy of a multiple one;
            see `sharpkit.diagnostics.curvature.copies`. None where it was not looked for.
        vectors: (k, P); unit eigenvectors of the largest.
        density: The density of all eigenvalues, or None.
        trace: The trace, or None.
        loss: The mean loss L(w).
        samples: N.
        parameters: P.
        names: Names of the parameters that L is differentiated by.
        sizes: Entries of each of them.
        bn_mode: How batch norm normalised.
        dtype: The type of products; sums are in float64.
        weight_decay: lambda of the term lambda I, 0 for none.
        products: Products of A with a vector, all together.
        forwards: Samples that were evaluated, on all ranks together.
        backwards: Samples that were differentiated, for a first or a second derivative, on all ranks together.
        how: How they were made.
        seconds: Time for all of it.
        complete: Whether nothing was stopped before its end.
        notes: What a reader should know.
        self_check: What the products were checked for, on a few samples.
    """

    kind: Kind
    eigenvalues: Array
    residuals: Array
    converged: NDArray[np.bool_]
    errors: Array
    smallest: Eigenpairs | None
    none_missing: bool | None
    vectors: Tensor
    density: Density | None
    trace: Trace | None
    loss: float
    samples: int
    parameters: int
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    bn_mode: BnMode
    dtype: str
    weight_decay: float
    products: int
    forwards: int
    backwards: int
    how: str
    seconds: float
    complete: bool
    notes: tuple[str, ...]
    self_check: SelfCheck = SKIPPED

    @property
    def ratio(self) -> float:
        """lambda_1 / lambda_5; NaN where there are fewer than five."""
        if len(self.eigenvalues) < 5 or self.eigenvalues[4] == 0:
            return math.nan
        return float(self.eigenvalues[0] / self.eigenvalues[4])


def hessian(
    model: nn.Module,
    loss: LossFunction | Task,
    batches: Iterable[Any],
    *,
    kind: Kind = "hessian",
    params: str | None = None,
    bn_mode: BnMode = "eval",
    dtype: torch.dtype | None = None,
    weight_decay: float = 0.0,
    products: Products = "auto",
    memory_bytes: int | None = None,
    self_check: bool = True,
    watch: Watch | None = None,
    comm: Comm = ALONE,
    **wanted: Any,
) -> SpectrumResult:
    """Return the spectrum of the Hessian of L(w) = 1/N sum_i l_i(w), or of another curvature matrix.

    Lanczos with full re-orthogonalisation; see `sharpkit.diagnostics.curvature.lanczos`.

    Args:
        model: On the device of the batches; comes back as it was.
        loss: `(outputs, targets, reduction="none") -> (B,)`, or a task.
        batches: `(inputs, targets)` of any sizes; every sample weighs the same.
        kind: `hessian`, `ggn` (generalised Gauss-Newton) or `fisher` (empirical Fisher).
        params: A regular expression for the names of the parameters; None takes all that require a gradient.
        bn_mode: `eval` normalises with the stored statistics, `train` with those of every batch.
        dtype: torch.float64 computes in double precision; None in the model's type.
        weight_decay: lambda of a term lambda / 2 |w|^2 added to the loss.
        products: `autograd`, `fd` (finite differences), or `auto`.
        memory_bytes: For graphs and basis, of every rank; None takes half of what is free.
        self_check: Whether products are checked first, on a few samples: for symmetry, and against differences of first
            derivatives.
        watch: `(products, largest eigenvalue) -> go on?`, called after every product; any rank's may stop it.
        comm: Ranks that share the samples of every product. All are given the same model and batches, and return the
            same; eigenvalues differ from those of one process by the rounding of sums over samples.
        wanted: `top`, `bottom`, `tol`, `density`, `trace` and the other fields of `Wanted`.

    Raises:
        UsageError: If a value is not allowed.
        InputError: If two evaluations of the loss differ, it has no second derivative, or the self-check finds a wrong
            one and finite differences are not allowed.
        DivergedError: If the loss is not finite.
    """
    asked = Wanted(**wanted)
    with opened(model, loss, batches, params=params, bn_mode=bn_mode, dtype=dtype, comm=comm) as problem:
        return of_problem(
            problem,
            asked,
            kind=kind,
            weight_decay=weight_decay,
            products=products,
            budget=memory_bytes,
            self_check=self_check,
            watch=watch,
        )


def of_problem(
    problem: Problem,
    asked: Wanted,
    *,
    kind: Kind = "hessian",
    weight_decay: float = 0.0,
    products: Products = "auto",
    budget: int | None = None,
    self_check: bool = True,
    watch: Watch | None = None,
) -> SpectrumResult:
    """Return the spectrum of an open problem; the arguments are those of `hessian`."""
    start, before = time.perf_counter(), replace(problem.passes)
    comm = problem.comm
    if asked.error_bars or asked.trace is not None:
        problem = sliced(problem, pieces=_SLICES if asked.error_bars else 1)
    budget = memory.available(problem.device, comm) // 2 if budget is None else budget
    sizes = [p.numel() for p in problem.params]
    # Half of the budget for each of the two that grow with it; a small basis leaves the rest to the graphs.
    vector = problem.size * torch.finfo(problem.dtype).bits // 8
    rows = int(min(max(budget // 2 // vector, 3 * asked.block + asked.top + asked.bottom + 4), _rows(asked)))
    rows = min(comm.objects(rows))
    operator = Curvature(
        problem,
        kind,
        weight_decay=weight_decay,
        memory_bytes=max(budget - rows * vector, budget // 2),
        products=products,
        finer=sliced(problem, pieces=min(_SLICES, problem.samples // _SMALLEST)),
    )
    checked = verified(operator) if self_check else SKIPPED
    watch = unanimous(watch, comm, problem.device)
    found = analyse(operator, asked, sizes=sizes, rows=rows, watch=watch, elsewhere=_elsewhere(problem, asked))
    passed = problem.passes.forward - before.forward, problem.passes.backward - before.backward
    forwards, backwards = (sum(every) for every in zip(*comm.objects(passed), strict=True))
    return SpectrumResult(
        kind=kind,
        eigenvalues=found.top.values,
        residuals=found.top.residuals,
        converged=found.top.converged,
        errors=found.top.errors,
        smallest=found.bottom,
        none_missing=found.none_missing,
        vectors=found.top.vectors,
        density=found.density,
        trace=found.trace,
        loss=problem.loss,
        samples=problem.samples,
        parameters=problem.size,
        names=problem.names,
        sizes=tuple(sizes),
        bn_mode=problem.bn_mode,
        dtype=str(problem.dtype).removeprefix("torch."),
        weight_decay=weight_decay,
        products=operator.products,
        forwards=forwards,
        backwards=backwards,
        how=operator.how,
        seconds=time.perf_counter() - start,
        complete=found.complete,
        notes=(*problem.notes, *operator.notes, *found.notes),
        self_check=checked,
    )


def sliced(problem: Problem, *, pieces: int) -> Problem:
    """Return the problem with its samples in at least so many pieces, and none of more than 128 samples."""
    if problem.bn_mode == "train":
        return problem
    count = max(1, -(-pieces // len(problem.batches)))
    batches = tuple(part for batch in problem.batches for part in batch.split(max(count, -(-batch.size // _PIECE))))
    return replace(problem, batches=batches)


def of_layers(problem: Problem, asked: Wanted, **options: Any) -> dict[str, SpectrumResult]:
    """Return the spectra of the diagonal blocks of the matrix, one for every module that holds parameters.

    Args:
        problem: Open.
        asked: What is computed of every block.
        options: Those of `of_problem`.
    """
    groups: dict[str, list[int]] = {}
    for i, name in enumerate(problem.names):
        groups.setdefault(layer_of(name), []).append(i)
    return {
        layer: of_problem(
            replace(
                problem,
                names=tuple(problem.names[i] for i in which),
                params=tuple(problem.params[i] for i in which),
            ),
            asked,
            **options,
        )
        for layer, which in groups.items()
    }


def _elsewhere(problem: Problem, asked: Wanted) -> Elsewhere | None:
    """Return the other program that was asked for, if any."""
    if asked.backend == "scipy":
        return lambda operator: (
            arpack(operator, asked.top, bottom=asked.bottom, tol=asked.tol, seed=asked.seed),
            [],
        )
    if asked.backend == "lanczos":
        return None
    if problem.bn_mode != "eval" or asked.bottom:
        raise UsageError("backend is pyhessian, which has neither training mode nor both ends", "use backend lanczos")
    if problem.comm.size > 1:
        raise UsageError(
            f"backend is pyhessian, which runs in one process, and there are {problem.comm.size}",
            "start a single one, or use backend lanczos",
        )

    def criterion(outputs: Tensor, targets: Tensor) -> Tensor:
        return problem.task.losses(outputs, Batch(outputs, targets)).mean()

    return lambda operator: pyhessian(
        operator,
        problem.model,
        criterion,
        [(batch.inputs, batch.targets) for batch in problem.batches],
        top=asked.top,
        steps=asked.steps if asked.density else None,
        runs=asked.runs,
        seed=asked.seed,
    )


def _rows(asked: Wanted) -> int:
    """Return how many basis vectors are of use: without a restart there are never more than the products allow."""
    return max(asked.steps if asked.density else 0, asked.most) + asked.block + 1

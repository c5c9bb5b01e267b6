"""The spectrum of a loss's curvature: eigenvalues at its ends, density and trace, from one Lanczos basis."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sharpkit.core.task import LossFunction, Task
from sharpkit.diagnostics import memory
from sharpkit.diagnostics.density import Density, broaden, extend, further_runs, quadrature
from sharpkit.diagnostics.eigenvalues import Eigenpairs, Watch, converge, eigenpairs
from sharpkit.diagnostics.lanczos import Array, Lanczos
from sharpkit.diagnostics.operators import Curvature, Kind, Operator, Products
from sharpkit.diagnostics.problem import BnMode, Problem, opened
from sharpkit.diagnostics.trace import Trace, TraceMethod, estimate
from sharpkit.errors import UsageError, check_range

_SLICES = 16
"""Pieces that the samples are cut into for error bars, at least."""


@dataclass(frozen=True)
class Wanted:
    """What is computed of a spectrum, and how exactly.

    Args:
        top: How many of the algebraically largest eigenvalues.
        bottom: How many of the algebraically smallest.
        tol: An eigenvalue counts as converged when |A v - lambda v| is at most tol |lambda|.
        verify: Make a product for every eigenvector, for the residual that it has; else the bound of the recurrence.
        error_bars: Standard errors of the eigenvalues over the samples.
        block: Vectors that Lanczos starts from; finds eigenvalues of a multiplicity up to it.
        most: Products at most for the eigenvalues.
        density: Whether the density is estimated.
        steps: Nodes of a run of the density.
        runs: Starting vectors of the density.
        sigma: Width of its Gaussian, in units of the eigenvalues; None chooses.
        trace: How the trace is estimated; None leaves it out.
        trace_tol: Relative standard error at which it stops.
        trace_products: Products at most for it.
        seed: Of all random vectors.
    """

    top: int = 5
    bottom: int = 0
    tol: float = 1e-4
    verify: bool = True
    error_bars: bool = False
    block: int = 1
    most: int = 1000
    density: bool = False
    steps: int = 100
    runs: int = 1
    sigma: float | None = None
    trace: TraceMethod | None = None
    trace_tol: float = 0.01
    trace_products: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, low in (
            ("top", self.top, 1),
            ("bottom", self.bottom, 0),
            ("block", self.block, 1),
            ("steps", self.steps, 2),
            ("runs", self.runs, 1),
            ("trace-products", self.trace_products, 2),
        ):
            check_range(name, value, low)
        check_range("tol", self.tol, 0, 1, open_low=True)
        check_range("trace-tol", self.trace_tol, 0, 1, open_low=True)
        if self.sigma is not None:
            check_range("sigma", self.sigma, 0, open_low=True)
        if self.density and self.block > 1:
            raise UsageError("block is more than 1 and a density is wanted", "give --no-density, or --block 1")


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
        how: How they were made.
        seconds: Time for all of it.
        complete: Whether nothing was stopped before its end.
        notes: What a reader should know.
    """

    kind: Kind
    eigenvalues: Array
    residuals: Array
    converged: NDArray[np.bool_]
    errors: Array
    smallest: Eigenpairs | None
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
    how: str
    seconds: float
    complete: bool
    notes: tuple[str, ...]

    @property
    def ratio(self) -> float:
        """lambda_1 / lambda_5; NaN where there are fewer than five."""
        if len(self.eigenvalues) < 5 or self.eigenvalues[4] == 0:
            return math.nan
        return float(self.eigenvalues[0] / self.eigenvalues[4])


@dataclass(frozen=True)
class Found:
    """What was computed of an operator."""

    top: Eigenpairs
    bottom: Eigenpairs | None
    density: Density | None
    trace: Trace | None
    complete: bool
    notes: tuple[str, ...]


class _Stop:
    """Remembers that `watch` said stop, so that nothing goes on after it; the largest eigenvalue is passed on."""

    def __init__(self, watch: Watch | None) -> None:
        self._watch = watch
        self._largest = math.nan
        self.stopped = False

    def __call__(self, products: int, largest: float) -> bool:
        if not math.isnan(largest):
            self._largest = largest
        if self._watch is not None and not self._watch(products, self._largest):
            self.stopped = True
        return not self.stopped


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
    watch: Watch | None = None,
    **wanted: Any,
) -> SpectrumResult:
    """Return the spectrum of the Hessian of L(w) = 1/N sum_i l_i(w), or of another curvature matrix.

    Lanczos with full re-orthogonalisation; see `sharpkit.diagnostics.lanczos`.

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
        memory_bytes: For graphs and basis; None takes half of what is free.
        watch: `(products, largest eigenvalue) -> go on?`, called after every product.
        wanted: `top`, `bottom`, `tol`, `density`, `trace` and the other fields of `Wanted`.

    Raises:
        UsageError: If a value is not allowed.
        InputError: If two evaluations of the loss differ, or it has no second derivative.
        DivergedError: If the loss is not finite.
    """
    asked = Wanted(**wanted)
    with opened(model, loss, batches, params=params, bn_mode=bn_mode, dtype=dtype) as problem:
        return of_problem(
            problem, asked, kind=kind, weight_decay=weight_decay, products=products, budget=memory_bytes, watch=watch
        )


def of_problem(
    problem: Problem,
    asked: Wanted,
    *,
    kind: Kind = "hessian",
    weight_decay: float = 0.0,
    products: Products = "auto",
    budget: int | None = None,
    watch: Watch | None = None,
) -> SpectrumResult:
    """Return the spectrum of an open problem; the arguments are those of `hessian`."""
    start = time.perf_counter()
    if asked.error_bars:
        problem = sliced(problem)
    budget = memory.available(problem.device) // 2 if budget is None else budget
    sizes = [p.numel() for p in problem.params]
    # Half of the budget for each of the two that grow with it; a small basis leaves the rest to the graphs.
    vector = problem.size * torch.finfo(problem.dtype).bits // 8
    rows = int(min(max(budget // 2 // vector, 3 * asked.block + asked.top + asked.bottom + 4), _rows(asked)))
    operator = Curvature(
        problem,
        kind,
        weight_decay=weight_decay,
        memory_bytes=max(budget - rows * vector, budget // 2),
        products=products,
    )
    found = analyse(operator, asked, sizes=sizes, rows=rows, watch=watch)
    return SpectrumResult(
        kind=kind,
        eigenvalues=found.top.values,
        residuals=found.top.residuals,
        converged=found.top.converged,
        errors=found.top.errors,
        smallest=found.bottom,
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
        how=operator.how,
        seconds=time.perf_counter() - start,
        complete=found.complete,
        notes=(*operator.notes, *found.notes),
    )


def analyse(operator: Operator, asked: Wanted, *, sizes: list[int], rows: int, watch: Watch | None = None) -> Found:
    """Return eigenvalues, density and trace of any symmetric operator, all from one basis where that is possible.

    Args:
        operator: A.
        asked: What is wanted.
        sizes: Lengths of the pieces of the diagonal whose traces are told apart.
        rows: Basis vectors that memory has room for.
        watch: May stop it; what is there then is returned.
    """
    stop, notes = _Stop(watch), list[str]()
    generator = torch.Generator().manual_seed(asked.seed)
    lanczos = Lanczos(operator, rows=rows, generator=generator, block=asked.block)
    measures: list[tuple[Array, Array]] = []
    if asked.density:
        extend(lanczos, asked.steps, stop)
        measures.append(quadrature(lanczos))
        if lanczos.steps < asked.steps and lanczos.full:
            notes.append(f"memory has room for {lanczos.steps} of {asked.steps} steps of the density")
    most = operator.products + asked.most
    ritz = lanczos.ritz() if stop.stopped else converge(
        lanczos, asked.top, bottom=asked.bottom, tol=asked.tol, most=most, watch=stop
    )  # fmt: skip
    pairs = eigenpairs(
        lanczos,
        ritz,
        asked.top,
        bottom=asked.bottom,
        tol=asked.tol,
        verify=asked.verify and not stop.stopped,
        error_bars=asked.error_bars and not stop.stopped,
    )
    count = min(asked.top, len(pairs.values))
    bottom = _cut(pairs, slice(count, None)) if asked.bottom else None
    trace = None
    if asked.trace is not None and not stop.stopped:
        trace = estimate(
            operator,
            sizes,
            method=asked.trace,
            lanczos=lanczos,
            tol=asked.trace_tol,
            most=asked.trace_products,
            generator=generator,
            watch=stop,
        )
    if asked.density and asked.runs > 1 and not stop.stopped:
        del lanczos  # its basis makes room for the next
        measures += further_runs(operator, asked.steps, asked.runs - 1, rows=rows, generator=generator, watch=stop)
    if not stop.stopped and not pairs.converged.all():
        notes.append(f"{(~pairs.converged).sum()} of {len(pairs.converged)} eigenvalues are not converged")
    density = broaden(measures, asked.sigma) if measures else None
    return Found(_cut(pairs, slice(0, count)), bottom, density, trace, not stop.stopped, tuple(notes))


def sliced(problem: Problem) -> Problem:
    """Return the problem with its samples in at least 16 pieces, of which error bars are made."""
    if problem.bn_mode == "train":
        return problem
    pieces = -(-_SLICES // len(problem.batches))
    batches = tuple(part for batch in problem.batches for part in batch.split(pieces))
    return Problem(problem.task, problem.model, batches, problem.names, problem.params, problem.bn_mode, problem.loss)


def _rows(asked: Wanted) -> int:
    """Return how many basis vectors are of use: without a restart there are never more than the products allow."""
    return max(asked.steps if asked.density else 0, asked.most) + asked.block + 1


def _cut(pairs: Eigenpairs, rows: slice) -> Eigenpairs:
    return Eigenpairs(
        pairs.values[rows], pairs.residuals[rows], pairs.converged[rows], pairs.vectors[rows], pairs.errors[rows]
    )

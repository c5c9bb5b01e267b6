"""Eigenvalues, density and trace of a symmetric operator, from one Lanczos basis where that is possible."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch

from sharpkit.diagnostics.curvature import copies
from sharpkit.diagnostics.curvature.density import (
    Density,
    broaden,
    deflated,
    extend,
    further_runs,
    joined,
    quadrature,
)
from sharpkit.diagnostics.curvature.eigenvalues import Eigenpairs, Watch, converge, eigenpairs
from sharpkit.diagnostics.curvature.lanczos import Array, Lanczos
from sharpkit.diagnostics.curvature.operators import Operator
from sharpkit.diagnostics.curvature.trace import Trace, TraceMethod, estimate
from sharpkit.diagnostics.sharing import seed_of
from sharpkit.errors import UsageError, check_range

Backend = Literal["lanczos", "scipy", "pyhessian"]
"""Who computes the eigenvalues."""

Elsewhere = Callable[[Operator], tuple[Eigenpairs, list[tuple[Array, Array]]]]
"""Another program: eigenpairs of an operator, and nodes and weights of runs of its density."""

_DEFLATED = 4
"""Lanczos steps for every eigenvalue asked for, where they serve a deflated trace alone."""


@dataclass(frozen=True)
class Wanted:
    """What is computed of a spectrum, and how exactly.

    Args:
        top: How many of the algebraically largest eigenvalues; all P where there are fewer.
        bottom: How many of the algebraically smallest; likewise.
        tol: An eigenvalue counts as converged when |A v - lambda v| is at most tol |lambda|.
        verify: Check the residuals by a product; else they are those of the recurrence.
        copies: Look for what one starting vector may miss: further copies of multiple eigenvalues, and clusters.
        error_bars: Standard errors of the eigenvalues over the samples.
        block: Vectors that Lanczos starts from; finds eigenvalues of a multiplicity up to it at once.
        most: Products at most for the eigenvalues.
        density: Whether the density is estimated.
        steps: Nodes of a run of the density; the converged eigenvalues are among them.
        runs: Starting vectors of the density; of no use where all eigenvalues are known.
        sigma: Width of its Gaussian, in units of the eigenvalues; None chooses.
        trace: How the trace is estimated; None leaves it out.
        trace_tol: Relative standard error that it aims at.
        trace_products: Products at most for it.
        seed: Of all random vectors.
        backend: Who computes the eigenvalues, and with `pyhessian` the density.
    """

    top: int = 5
    bottom: int = 0
    tol: float = 1e-4
    verify: bool = True
    copies: bool = True
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
    backend: Backend = "lanczos"

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
        if self.backend not in get_args(Backend):
            raise UsageError(f"backend is {self.backend!r}, allowed are {', '.join(get_args(Backend))}", "use lanczos")
        check_range("tol", self.tol, 0, 1, open_low=True)
        check_range("trace-tol", self.trace_tol, 0, 1, open_low=True)
        if self.sigma is not None:
            check_range("sigma", self.sigma, 0, open_low=True)
        if self.density and self.block > 1:
            raise UsageError("block is more than 1 and a density is wanted", "give --no-density, or --block 1")


@dataclass(frozen=True)
class Found:
    """What was computed of an operator.

    Args:
        top: The largest eigenvalues.
        bottom: The smallest.
        none_missing: Whether no eigenvalue beyond those found was missed; None where not looked for.
        density: The density.
        trace: The trace.
        complete: Whether nothing was stopped.
        notes: What a reader should know.
    """

    top: Eigenpairs
    bottom: Eigenpairs | None
    none_missing: bool | None
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


def analyse(
    operator: Operator,
    asked: Wanted,
    *,
    sizes: list[int],
    rows: int,
    watch: Watch | None = None,
    elsewhere: Elsewhere | None = None,
) -> Found:
    """Return eigenvalues, density and trace of any symmetric operator, all from one basis where that is possible.

    Args:
        operator: A.
        asked: What is wanted.
        sizes: Lengths of the pieces of the diagonal whose traces are told apart.
        rows: Basis vectors that memory has room for.
        watch: May stop it; what is there then is returned.
        elsewhere: Gives the eigenvalues, and what it has of the density, in place of Lanczos.
    """
    stop, notes = _Stop(watch), list[str]()
    generator = torch.Generator().manual_seed(asked.seed)
    wanted = _within(asked, operator.size)
    grows = elsewhere is None or asked.trace == "deflated"
    # A density that is stopped early comes from this basis, which then needs a random vector.
    lead = operator.lead() if grows and not asked.density else None
    lanczos = Lanczos(operator, rows=rows, generator=generator, block=asked.block, lead=lead)
    measures: list[tuple[Array, Array]] = []
    early: list[tuple[Array, Array]] = []
    none_missing: bool | None = None
    if elsewhere is None:
        pairs, none_missing, early = _own(lanczos, wanted, stop)
    else:
        pairs, measures = elsewhere(operator)
        if asked.trace == "deflated":
            extend(lanczos, _DEFLATED * asked.top, stop)
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
    exact: Array = np.empty(0)
    if asked.density and not measures and not stop.stopped:
        if operator.size <= asked.steps:  # as many products as an estimate takes give all eigenvalues
            extend(lanczos, operator.size, stop)
        if lanczos.complete:
            exact = lanczos.ritz().values
            measures = joined([], exact, operator.size)
        else:
            del lanczos  # its basis makes room for the next
            measures, exact = _density(operator, asked, pairs, notes, rows=rows, watch=stop)
    elif asked.density and not measures and early:
        measures = early
        notes.append("the density is a rough one, of the products until the stop, and no eigenvalue is in it exactly")
    if not pairs.converged.all():
        notes.append(f"{(~pairs.converged).sum()} of {len(pairs.converged)} eigenvalues are not converged")
    elif not stop.stopped and none_missing is False:
        notes.append(
            "whether there are further copies of these eigenvalues is not certain: the products for it ran out"
        )
    density = broaden(measures, asked.sigma, exact=exact) if measures else None
    top, bottom = _ends(pairs, asked, everything=elsewhere is None and wanted.top == operator.size)
    return Found(top, bottom, none_missing, density, trace, not stop.stopped, tuple(notes))


def _within(asked: Wanted, size: int) -> Wanted:
    """Return what is computed of a matrix that may have fewer eigenvalues than are wanted at its ends."""
    return replace(asked, top=size, bottom=0) if asked.top + asked.bottom >= size else asked


def _ends(pairs: Eigenpairs, asked: Wanted, *, everything: bool) -> tuple[Eigenpairs, Eigenpairs | None]:
    """Return the largest and, where asked for, the smallest of the eigenpairs; of all of them the ends may overlap."""
    count = min(asked.top, len(pairs.values))
    first = max(0, len(pairs.values) - asked.bottom) if everything else count
    return _cut(pairs, slice(0, count)), _cut(pairs, slice(first, None)) if asked.bottom else None


def _density(
    operator: Operator,
    asked: Wanted,
    pairs: Eigenpairs,
    notes: list[str],
    *,
    rows: int,
    watch: Watch,
) -> tuple[list[tuple[Array, Array]], Array]:
    """Return nodes and weights of the whole spectrum, one pair per run, and which eigenvalues among them are exact."""
    rest, exact = deflated(operator, pairs)
    # Vectors of its own: they depend neither on how far the eigenvalues' basis went, nor on where it started.
    generator = torch.Generator().manual_seed(seed_of(asked.seed, 1))
    left = operator.size - len(exact)
    steps = min(max(asked.steps - len(exact), 2), left)
    runs = further_runs(rest, steps, asked.runs, rows=rows, generator=generator, watch=watch) if left else []
    if left and not runs:
        return [], exact
    if runs and len(runs[0][0]) < min(steps, rows - 1):
        notes.append(f"the density was stopped after {len(runs[0][0])} of {steps} steps")
    elif runs and len(runs[0][0]) < steps:
        notes.append(f"memory has room for {len(runs[0][0])} of {steps} steps of the density")
    if 0 < len(runs) < asked.runs:
        notes.append(f"the density is of {len(runs)} of {asked.runs} runs")
    return joined(runs, exact, operator.size), exact


def _own(lanczos: Lanczos, asked: Wanted, stop: _Stop) -> tuple[Eigenpairs, bool | None, list[tuple[Array, Array]]]:
    """Go on with the basis until the eigenvalues are converged and none is missing, or take what is there.

    What the basis says of the density so far is returned too; it is of use where there will be no better one.
    """
    none_missing: bool | None = None
    top, bottom, tol = asked.top, asked.bottom, asked.tol
    most = lanczos.operator.products + asked.most
    ritz = lanczos.ritz() if stop.stopped else converge(lanczos, top, bottom=bottom, tol=tol, most=most, watch=stop)
    early = [quadrature(lanczos)] if asked.density and not lanczos.restarted else []
    if asked.copies and not stop.stopped:
        ritz, none_missing = copies.complete(lanczos, ritz, top, bottom=bottom, tol=tol, most=most, watch=stop)
    pairs = eigenpairs(
        lanczos,
        ritz,
        top,
        bottom=bottom,
        tol=tol,
        verify=asked.verify and not stop.stopped,
        error_bars=asked.error_bars and not stop.stopped,
    )
    return pairs, none_missing, early


def _cut(pairs: Eigenpairs, rows: slice) -> Eigenpairs:
    return Eigenpairs(
        pairs.values[rows], pairs.residuals[rows], pairs.converged[rows], pairs.vectors[rows], pairs.errors[rows]
    )

"""The trace of a curvature matrix, with its standard error, also layer by layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from sharpkit.diagnostics import reductions
from sharpkit.diagnostics.curvature.eigenvalues import Watch
from sharpkit.diagnostics.curvature.lanczos import Array, Lanczos
from sharpkit.diagnostics.curvature.operators import Operator
from sharpkit.diagnostics.intervals import half_width
from sharpkit.errors import UsageError

TraceMethod = Literal["deflated", "hutchinson", "hutch++"]
"""How the trace is estimated."""

_COLUMNS = 1 << 15
"""Entries of long vectors that are worked on at a time."""

_PILOT = 12
"""Samples that the number of all samples is chosen from, and the fewest that a standard error is of."""


@dataclass(frozen=True)
class Trace:
    """An estimate of tr(A) and its standard error over the random vectors.

    Args:
        value: The estimate.
        error: The standard error; 0 where the trace is exact.
        samples: Random vectors; the error has one degree of freedom fewer, see `interval`.
        method: How.
        parts: The same for each piece of the diagonal, in the order of the sizes given; they add up to `value`.
        part_errors: Their standard errors.
    """

    value: float
    error: float
    samples: int
    method: TraceMethod
    parts: Array
    part_errors: Array

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of the trace, by Student's t."""
        width = half_width(self.error, self.samples)
        return self.value - width, self.value + width


@dataclass(frozen=True)
class _Known:
    """The part of A that a basis V knows: A P with P = V^T V, of which the diagonal is known exactly.

    Args:
        rows: V, (m, P), orthonormal.
        diagonal: Sums of the diagonal of that part over each piece.
    """

    rows: Tensor
    diagonal: Array


def estimate(
    operator: Operator,
    sizes: list[int],
    *,
    method: TraceMethod = "deflated",
    lanczos: Lanczos | None = None,
    tol: float = 0.01,
    most: int = 100,
    generator: torch.Generator,
    watch: Watch | None = None,
) -> Trace:
    """Estimate tr(A) to a relative standard error.

    Hutchinson (1989): the mean of z^T A z over vectors z of random signs. Here A is a sum of terms, one for every piece
    of the samples, and each term gets vectors of its own. That costs the same, and the estimates of the terms do not
    err together: the variance is sum_j Var(z^T A_j z) in place of Var(z^T A z), without the covariances of terms that
    resemble one another.

    `deflated` adds the exact trace of the part that the Lanczos basis knows to that estimate for the rest, A (I - P),
    which holds no large eigenvalue any more. So does `hutch++` (Meyer, Musco, Musco and Woodruff, 2021) with the range
    of A S for a random S, which takes two thirds of `most` products before it starts.

    The number of samples is chosen once, in two stages (Stein, 1945): n = (s / (tol |trace|))^2 from the spread s of
    the first 12, and no fewer than these. To stop where the standard error happens to be small would make it too
    small: intervals of 95 % then cover less than 90 %.

    Args:
        operator: A.
        sizes: Lengths of the pieces of the diagonal whose traces are told apart; they sum to P.
        method: Which estimator.
        lanczos: The basis of `deflated`; it need not be converged.
        tol: The standard error aimed at, relative to |trace|; the spread of all samples decides what it is.
        most: Products at most, without those of the Lanczos basis.
        generator: Draws the vectors, on the CPU.
        watch: May stop it.

    Raises:
        UsageError: If the method is unknown, or `deflated` is given no basis.
    """
    if method not in get_args(TraceMethod):
        raise UsageError(f"trace is {method!r}, allowed are {', '.join(get_args(TraceMethod))}", "use deflated")
    used = operator.products
    if method == "deflated":
        if lanczos is None:
            raise UsageError("a deflated trace needs a Lanczos basis, and none is given", "use hutchinson")
        known = _from_lanczos(lanczos, sizes)
    elif method == "hutch++":
        known = _from_sketch(operator, sizes, max(1, min(most // 3, operator.size)), generator)
    else:
        rows = torch.empty(0, operator.size, dtype=operator.dtype, device=operator.device)
        known = _Known(rows, np.zeros(len(sizes)))
    left = max(0, most - (operator.products - used))
    if known.rows.shape[0] >= operator.size:
        return _joined(known, [], method)
    samples: list[Array] = []
    planned = min(_PILOT, left)
    with operator.refined():
        while len(samples) < planned:
            samples.append(_sample(operator, known.rows, sizes, generator))
            if len(samples) == _PILOT:
                planned = operator.comm.agreed(_planned(_joined(known, samples, method), tol, left))
            if watch is not None and not watch(operator.products, math.nan):
                break
    return _joined(known, samples, method)


def _planned(pilot: Trace, tol: float, left: int) -> int:
    """Return how many samples bring the standard error from the pilot's down to tol |trace|; at most what is left."""
    aim = tol * abs(pilot.value)
    if pilot.error <= aim:
        return pilot.samples
    count = math.inf if aim == 0 else pilot.samples * (pilot.error / aim) ** 2
    return left if count >= left else math.ceil(count)


def _sample(operator: Operator, rows: Tensor, sizes: list[int], generator: torch.Generator) -> Array:
    """Return sum_j y_j . A_j y_j over each piece of the diagonal, with y_j = (I - P) z_j for random signs z_j.

    The mean of y * (A y) is the diagonal of A (I - P), for (I - P)^2 = I - P.
    """

    def draw(used: bool = True) -> Tensor:
        drawn = _bits(operator.size, generator)
        if not used:
            return drawn
        vector = _signs(drawn, operator)
        if len(rows):
            reductions.orthogonalise_(vector, rows)
        return vector

    operator.products += 1
    total = torch.zeros(len(sizes), dtype=reductions.wide(operator.device), device=operator.device)
    for term in operator.terms(draw):
        total += _sums(term.vector * term.image, sizes)
    return sum(operator.comm.objects(_told(total)), np.zeros(len(sizes)))


def _bits(count: int, generator: torch.Generator) -> Tensor:
    """Return at least so many random bits on the CPU, packed in bytes: what does not wait for a device is little."""
    return torch.randint(256, (-(-count // 8),), generator=generator, dtype=torch.uint8)


def _signs(bits: Tensor, operator: Operator) -> Tensor:
    """Return a vector of -1 and 1 on the operator's device."""
    places = torch.arange(8, dtype=torch.uint8, device=operator.device)
    flags = (bits.to(operator.device)[:, None] >> places) & 1
    return flags.flatten()[: operator.size].to(operator.dtype) * 2 - 1


def _from_lanczos(lanczos: Lanczos, sizes: list[int]) -> _Known:
    """A V = V T + R B, so the known part is V T V^T + R B V^T."""
    rows = lanczos.basis
    if len(sizes) == 1:  # R is orthogonal to V, so the mixed term has no trace
        return _Known(rows, np.array([np.trace(lanczos.projected)]))
    own = torch.from_numpy(lanczos.projected).to(rows)
    other = torch.from_numpy(lanczos.coupling.T.copy()).to(rows)
    diagonal = torch.empty_like(rows[0])
    for start in range(0, rows.shape[1], _COLUMNS):
        piece = slice(start, start + _COLUMNS)
        diagonal[piece] = (rows[:, piece] * (own @ rows[:, piece] + other @ lanczos.coming[:, piece])).sum(0)
    return _Known(rows, _told(_sums(diagonal, sizes)))


def _from_sketch(operator: Operator, sizes: list[int], count: int, generator: torch.Generator) -> _Known:
    """Return the part that an orthonormal basis of the range of A S knows."""
    rows = torch.empty(count, operator.size, dtype=operator.dtype, device=operator.device)
    filled, scale = 0, 0.0
    for _ in range(count):
        image = operator.product(_signs(_bits(operator.size, generator), operator))
        scale = max(scale, float(reductions.norm(image)))
        reductions.orthogonalise_(image, rows[:filled])
        rest = float(reductions.norm(image))
        if operator.comm.agreed(rest > 100 * torch.finfo(operator.dtype).eps * scale):
            rows[filled] = image / rest
            reductions.orthogonalise_(rows[filled], rows[:filled])
            rows[filled] /= reductions.norm(rows[filled])
            filled += 1
    rows = rows[:filled]
    diagonal = np.zeros(len(sizes))
    for row in rows:
        diagonal += _told(_sums(row * operator.product(row), sizes))
    return _Known(rows, diagonal)


def _sums(values: Tensor, sizes: list[int]) -> Tensor:
    """Return the sums over consecutive pieces, (len(sizes),), in double precision where the device has it."""
    wide = reductions.wide(values.device)
    return torch.stack([part.sum(dtype=wide) for part in torch.split(values, sizes)])


def _told(sums: Tensor) -> Array:
    """Wait for the device, and return what it summed."""
    return sums.cpu().numpy().astype(np.float64)


def _joined(known: _Known, samples: list[Array], method: TraceMethod) -> Trace:
    """Return the estimate from the known part and the samples of the rest."""
    count = len(samples)
    seen = np.stack(samples) if samples else np.zeros((1, len(known.diagonal)))
    parts = known.diagonal + seen.mean(axis=0)
    if count > 1:
        errors = seen.std(axis=0, ddof=1) / math.sqrt(count)
        error = float(seen.sum(axis=1).std(ddof=1)) / math.sqrt(count)
    else:
        exact = count == 0 and known.rows.shape[0] >= known.rows.shape[1]
        error = 0.0 if exact else math.nan
        errors = np.full(len(parts), error)
    return Trace(float(parts.sum()), error, count, method, parts, errors)

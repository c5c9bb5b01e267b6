"""Eigenvalues at the ends of a spectrum, each with its residual."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharpkit.diagnostics import reductions
from sharpkit.diagnostics.curvature.lanczos import Array, Lanczos, Ritz
from sharpkit.diagnostics.curvature.operators import Operator

Watch = Callable[[int, float], bool]
"""`(products so far, largest eigenvalue so far) -> go on?`, called after every product."""

_UNSEEN = 4
"""Steps on an accelerator between two looks at what has converged."""

_ROUNDINGS = 50
"""No residual can be asked to be below so many roundings of the matrix's norm."""


@dataclass(frozen=True)
class Eigenpairs:
    """Eigenvalues with unit eigenvectors and residuals.

    Args:
        values: (k,), from the largest down.
        residuals: (k,); |A v - lambda v|, of the recurrence, and checked by products where these were asked for.
        converged: (k,); whether the residual is within the tolerance, so that an eigenvalue is that near.
        vectors: (k, P).
        errors: (k,); standard errors over the samples, NaN where not asked for.
    """

    values: Array
    residuals: Array
    converged: NDArray[np.bool_]
    vectors: Tensor
    errors: Array


def threshold(values: Array, norm: float, tol: float, dtype: torch.dtype) -> Array:
    """Return the largest residual that counts as converged: tol |lambda|, and no less than rounding allows."""
    return np.maximum(tol * np.abs(values), _ROUNDINGS * torch.finfo(dtype).eps * norm)


def wanted(count: int, top: int, bottom: int) -> list[int]:
    """Return the positions, in a list sorted from the largest down, of the ends of a spectrum."""
    first = range(min(top, count))
    last = range(max(len(first), count - bottom), count)
    return [*first, *last]


def settled(ritz: Ritz, top: int, bottom: int, tol: float, dtype: torch.dtype) -> bool:
    """Return whether all wanted Ritz values are converged by their bounds."""
    which = wanted(len(ritz.values), top, bottom)
    if len(which) < top + bottom:
        return False
    return bool((ritz.bounds <= threshold(ritz.values, ritz.norm, tol, dtype))[which].all())


def converge(
    lanczos: Lanczos, top: int, *, bottom: int = 0, tol: float = 1e-4, most: int = 1000, watch: Watch | None = None
) -> Ritz:
    """Take Lanczos steps until the wanted Ritz values are converged, and return the Ritz pairs.

    Args:
        lanczos: May have taken steps already.
        top: How many of the algebraically largest.
        bottom: How many of the algebraically smallest.
        tol: Relative residual.
        most: Products at most.
        watch: Is told of every product and may stop.
    """
    dtype = lanczos.operator.dtype
    ritz = lanczos.ritz() if lanczos.steps else None
    while not lanczos.complete and lanczos.operator.products < most:
        if ritz is not None and settled(ritz, top, bottom, tol, dtype):
            return ritz
        if lanczos.full:
            ritz = lanczos.ritz()
            lanczos.restart(ritz, kept(len(ritz.values), top, bottom, lanczos.limit - lanczos.block))
        # A large basis is looked at more seldom, so that the small eigenproblem stays cheap beside a product; and so
        # is one on an accelerator, which has to finish its work for it.
        for _ in range((1 if lanczos.operator.device.type == "cpu" else _UNSEEN) + lanczos.steps // 25):
            if not (lanczos.complete or lanczos.full or lanczos.operator.products >= most):
                lanczos.step()
        ritz = lanczos.ritz()
        if watch is not None and not watch(lanczos.operator.products, float(ritz.values[0])):
            return ritz
    return lanczos.ritz()


def kept(count: int, top: int, bottom: int, rows: int) -> list[int]:
    """Return which Ritz vectors survive a restart: those wanted and their neighbours, half of the basis together."""
    spare = max(0, (rows - top - bottom) // 2)
    share = spare if not bottom else spare // 2
    which = wanted(count, top + share, bottom + share if bottom else 0)
    return which[: max(1, rows - 1)]


def eigenpairs(
    lanczos: Lanczos,
    ritz: Ritz,
    top: int,
    *,
    bottom: int = 0,
    tol: float = 1e-4,
    verify: bool = True,
    error_bars: bool = False,
) -> Eigenpairs:
    """Return the wanted eigenpairs from Ritz pairs.

    Whether the residuals of the recurrence hold is seen from one product, with a combination of all eigenvectors with
    random signs. What it shows beside them is added to all; if they do not count as converged with it, each gets a
    product of its own.

    The standard error of lambda over the samples is that of the mean of v^T H_j v over the pieces H_j of the data: to
    first order an eigenvalue of a mean is the mean of the quotients.

    Args:
        lanczos: The basis.
        ritz: Its Ritz pairs.
        top: How many of the largest.
        bottom: How many of the smallest.
        tol: Relative residual of `converged`.
        verify: Make the product, or those, that the residuals are checked with.
        error_bars: Compute the standard errors, from a product for each eigenvector.
    """
    operator = lanczos.operator
    which = wanted(len(ritz.values), top, bottom)
    vectors = lanczos.vectors(ritz, which)
    values, residuals = ritz.values[which].copy(), ritz.bounds[which].copy()
    errors = np.full(len(which), math.nan)
    allowed = threshold(values, ritz.norm, tol, operator.dtype)
    each = error_bars
    if verify and not error_bars:
        checked = np.hypot(residuals, _beside(lanczos, ritz, which, vectors))
        each = bool(((checked > allowed) & (residuals <= allowed)).any())
        residuals = checked
    if operator.comm.agreed(each):
        for i, vector in enumerate(vectors):
            image, errors[i] = _observed(operator, vector, error_bars)
            residuals[i] = float(reductions.norm(image - vector * values[i]))
    return Eigenpairs(values, residuals, residuals <= allowed, vectors, errors)


def _beside(lanczos: Lanczos, ritz: Ritz, which: list[int], vectors: Tensor) -> float:
    """Return how far the recurrence is from the products of A with the eigenvectors: sqrt(sum_i |d_i|^2).

    For A y_i = theta_i y_i + R B s_i + d_i and random signs e, |sum_i e_i d_i|^2 has the mean sum_i |d_i|^2.
    """
    signs = lanczos.signs(len(which))
    image = lanczos.operator.product(reductions.combine(vectors, signs))
    reductions.subtract_(image, vectors, signs * torch.from_numpy(ritz.values[which].copy()).to(signs))
    coming = torch.from_numpy(lanczos.coupling @ ritz.weights[:, which]).to(signs)
    reductions.subtract_(image, lanczos.coming, coming @ signs)
    return float(reductions.norm(image))


def _observed(operator: Operator, vector: Tensor, error_bars: bool) -> tuple[Tensor, float]:
    """Return A v and the standard error of v^T A v over the pieces of the samples."""
    if not error_bars:
        return operator.product(vector), math.nan
    here = dict[int, tuple[float, float]]()

    def images() -> Iterator[Tensor]:
        for term in operator.terms(lambda used=True: vector):
            here[term.number] = term.share, float(reductions.dot(vector, term.image))
            yield term.image

    total = operator.summed(images())
    everywhere = operator.comm.objects(here)
    terms = sorted({number for found in everywhere for number in found})
    if len(terms) < 2:
        return total, math.nan
    pairs = [[sum(part) for part in zip(*(f[n] for f in everywhere if n in f), strict=True)] for n in terms]
    weights = np.array([share for share, _ in pairs])
    seen = np.array([image for _, image in pairs]) / weights
    spread = weights @ (seen - weights @ seen) ** 2 / (len(seen) - 1)
    return total, float(np.sqrt(spread))

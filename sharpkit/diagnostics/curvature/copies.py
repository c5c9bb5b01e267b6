"""Whether eigenvalues are missing from a converged basis, such as further copies of a multiple one.

The Krylov space of one vector holds one eigenvector of an eigenvalue, however many there are, and need not hold more of
a cluster that is narrower than the tolerance. No residual shows it. So Lanczos starts again, from a random vector in
the complement of the basis, until nothing is left there that belongs among the eigenvalues wanted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sharpkit.diagnostics.curvature.eigenvalues import Watch, converge, settled, threshold, wanted
from sharpkit.diagnostics.curvature.lanczos import Array, Lanczos, Ritz

_FAILURE = 1e-3
"""The probability that something is missed because a random vector happens to have too little of it."""

_FEWEST = 30
"""Fruitless steps before it is given up: half as many as the basis had, and no fewer than these."""

_SHARPER = 3
"""Steps that make a bound sharper that is low enough by itself."""

_MORE = 2
"""Steps after them for every vector that waits, where A may still have more by its coupling to the complement."""

_UNSEEN = 4
"""Steps on an accelerator between two looks."""


@dataclass(frozen=True)
class _End:
    """An end of the spectrum: the `count` largest eigenvalues of sign A."""

    sign: int
    count: int

    def last(self, ritz: Ritz, tol: float, lanczos: Lanczos) -> tuple[float, float]:
        """Return the last of the Ritz values wanted, of sign A, and how far off it may be."""
        which = self.count - 1 if self.sign > 0 else len(ritz.values) - self.count
        value = ritz.values[which]
        return self.sign * float(value), float(threshold(value, ritz.norm, tol, lanczos.operator.dtype))


def complete(
    lanczos: Lanczos,
    ritz: Ritz,
    top: int,
    *,
    bottom: int = 0,
    tol: float = 1e-4,
    most: int = 1000,
    watch: Watch | None = None,
) -> tuple[Ritz, bool]:
    """Find what is missing among converged Ritz values; return the Ritz pairs, and whether nothing is missing now.

    Let B be A on the complement of the basis V, and b an upper bound of its eigenvalues (`upper_bound`). For t > b, A
    has no more eigenvalues above t than T + C^T C / (t - b) has, with T = V^T A V and the coupling C of V to its
    complement: they are as many as those of the Schur complement T - t + C^T (t - B)^-1 C above zero (Haynsworth,
    1968). With fewer than `top` of them for a t two tolerances above the last value, nothing is missing.

    Args:
        lanczos: Its basis grows.
        ritz: Its Ritz pairs; where those wanted are not converged, nothing is done.
        top: How many of the algebraically largest are wanted.
        bottom: How many of the algebraically smallest.
        tol: Relative residual of what counts as converged.
        most: Products of the operator at most.
        watch: Is told of every product and may stop.
    """
    search = _Search(lanczos, top, bottom, tol, most, watch)
    while search.settled(ritz) and not lanczos.complete and search.may_go_on:
        ritz, nothing_missing = search.once(ritz)
        if nothing_missing is not None:
            return ritz, nothing_missing
    return ritz, search.settled(ritz) and lanczos.complete


class _Search:
    """Looks for what is missing, one random start after the other."""

    def __init__(self, lanczos: Lanczos, top: int, bottom: int, tol: float, most: int, watch: Watch | None) -> None:
        self._lanczos = lanczos
        self._top, self._bottom, self._tol, self._most = top, bottom, tol, most
        self._ends = [_End(sign, count) for sign, count in ((1, top), (-1, bottom)) if count]
        self._watch = watch
        self._stopped = False
        self._patience = self._fruitless = max(_FEWEST, lanczos.steps // 2)

    @property
    def may_go_on(self) -> bool:
        """Whether there are products left."""
        return not self._stopped and self._patience > 0 and self._lanczos.operator.products < self._most

    def settled(self, ritz: Ritz) -> bool:
        """Return whether all wanted Ritz values are converged."""
        return settled(ritz, self._top, self._bottom, self._tol, self._lanczos.operator.dtype)

    def once(self, ritz: Ritz) -> tuple[Ritz, bool | None]:
        """Look from one start; return the Ritz pairs, and whether nothing is missing, or None where to look again."""
        lanczos = self._lanczos
        roomy = lanczos.limit >= lanczos.operator.size
        if roomy and lanczos.operator.size - lanczos.steps <= _FEWEST:
            return self._exhaust(), None
        if not roomy and lanczos.room < _FEWEST:
            lanczos.restart(ritz, wanted(len(ritz.values), self._top, self._bottom))
        if lanczos.room < 2:
            return ritz, False
        first, bounds, since = lanczos.steps, None, 0
        lanczos.start_again()
        while lanczos.room and self.may_go_on and since <= _SHARPER + _MORE * lanczos.block:
            follow = since <= _SHARPER
            ritz = self._step(follow=follow)
            if not self.settled(ritz):
                if self._held_up(ritz):
                    break
                continue
            bounds = self._bounds(ritz, first) if follow else bounds
            if bounds and self._none_beyond(ritz, bounds, first):
                return ritz, True
            if not bounds and self._found(ritz, first):
                self._patience = self._fruitless
                return ritz, None
            since += bounds is not None
        if self.settled(ritz) or not self.may_go_on:
            again = bounds or (roomy and not lanczos.room)
            return ritz, None if again and self.may_go_on else False
        self._patience = self._fruitless
        most, watch = self._most, self._watch
        return converge(lanczos, self._top, bottom=self._bottom, tol=self._tol, most=most, watch=watch), None

    def _step(self, *, follow: bool) -> Ritz:
        lanczos = self._lanczos
        for _ in range(1 if lanczos.operator.device.type == "cpu" else _UNSEEN):
            if lanczos.room and self.may_go_on:
                lanczos.step(follow=follow)
                self._patience -= 1
        return self._told()

    def _held_up(self, ritz: Ritz) -> bool:
        """Return whether it is a vector that waits which keeps a Ritz value from converging."""
        which = wanted(len(ritz.values), self._top, self._bottom)
        slack = threshold(ritz.values, ritz.norm, self._tol, self._lanczos.operator.dtype)
        worst = max(which, key=lambda i: ritz.bounds[i] / slack[i])
        return bool(np.abs(self._lanczos.coupling @ ritz.weights[:, worst]).argmax() > 0)

    def _exhaust(self) -> Ritz:
        """Multiply all vectors that there are."""
        while not self._lanczos.complete and self.may_go_on:
            self._lanczos.step()
            self._told()
        return self._lanczos.ritz()

    def _told(self) -> Ritz:
        ritz = self._lanczos.ritz()
        if self._watch is not None and not self._watch(self._lanczos.operator.products, float(ritz.values[0])):
            self._stopped = True
        return ritz

    def _bounds(self, ritz: Ritz, first: int) -> list[float] | None:
        """Return an upper bound of sign B for each end, or None if one is beyond the last value there."""
        diagonal, below = self._lanczos.followed(first)
        bounds: list[float] = []
        for end in self._ends:
            value, slack = end.last(ritz, self._tol, self._lanczos)
            bound = upper_bound(end.sign * diagonal, below, self._lanczos.operator.size - first, value + slack)
            if bound is None:
                return None
            bounds.append(bound)
        return bounds

    def _none_beyond(self, ritz: Ritz, bounds: list[float], first: int) -> bool:
        """Return whether A has no more eigenvalues at its ends than are wanted, by the old basis or by all of it."""
        return any(
            all(self._few(end, bound, ritz, rows) for end, bound in zip(self._ends, bounds, strict=True))
            for rows in (first, self._lanczos.steps)
        )

    def _few(self, end: _End, bound: float, ritz: Ritz, rows: int) -> bool:
        value, slack = end.last(ritz, self._tol, self._lanczos)
        at, beyond = value + 2 * slack, self._lanczos.beyond(rows)
        most = end.sign * self._lanczos.projected[:rows, :rows] + beyond.T @ beyond / (at - bound)
        return int((np.linalg.eigvalsh(most) > at).sum()) < end.count

    def _found(self, ritz: Ritz, first: int) -> bool:
        """Return whether the complement has an eigenvalue that is among those wanted."""
        diagonal, below = self._lanczos.followed(first)
        values = np.linalg.eigvalsh(_tridiagonal(diagonal, below))
        for end in self._ends:
            value, slack = end.last(ritz, self._tol, self._lanczos)
            if (end.sign * values).max() > value + slack:
                return True
        return False


def upper_bound(diagonal: Array, below: Array, size: int, ceiling: float) -> float | None:
    """Return a number that no eigenvalue of B is above, with a probability of 0.999, or None if it is above a ceiling.

    With the polynomials q_j of Lanczos, w_j = q_j(B) w, an eigenvector y of mu has <y, w_j> = q_j(mu) <y, w>, and the
    squares of these sum to 1 at most. A random w has |<y, w>| >= delta with a probability of at least 1 - delta (2 P /
    pi)^1/2. So mu with sum_j q_j(mu)^2 > delta^-2 is no eigenvalue, nor is anything above it, where the q_j grow (van
    Dorsselaer, Hochstenbach and van der Vorst, 2000).

    Args:
        diagonal: (n,); of the tridiagonal matrix of Lanczos.
        below: (n,); what is below it, and the norm of what comes next.
        size: P, the rows of B.
        ceiling: The number of interest.
    """
    largest = float(np.linalg.eigvalsh(_tridiagonal(diagonal, below))[-1])
    needed = 2 * size / (math.pi * _FAILURE**2)
    if largest >= ceiling or _squares(diagonal, below, ceiling) <= needed:
        return None
    low, high = largest, ceiling
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if _squares(diagonal, below, middle) > needed else (middle, high)
    return high


def _squares(diagonal: Array, below: Array, at: float) -> float:
    """Return sum_j q_j(at)^2, no more exactly than that it is large."""
    before, now, total = 0.0, 1.0, 1.0
    for i, (entry, next_below) in enumerate(zip(diagonal, below, strict=True)):
        carried = below[i - 1] * before if i else 0.0
        before, now = now, ((at - entry) * now - carried) / max(next_below, 1e-300)
        total += now * now
        if not total < 1e200:
            return math.inf
    return total


def _tridiagonal(diagonal: Array, below: Array) -> Array:
    return np.diag(diagonal) + np.diag(below[:-1], 1) + np.diag(below[:-1], -1)

"""Counts of r = log(|h - g| / |g|) over the entries of two gradients, tensor by tensor, in constant memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharpkit.core.comm import Comm
from sharpkit.errors import check_range

Counts = NDArray[np.int64]

FINE = 32
"""Fine bins in a bin; quantiles are as exact as one of them is wide."""

_CHUNK = 1 << 20
"""Entries that are looked at together, so that what is computed of them does not grow with the tensor."""

_TRAITS = ("entries", "zero", "both_zero", "denormal", "below_eps", "not_finite", "negative", "below_floor")


@dataclass(frozen=True)
class Grid:
    """Bins of equal width over [low, high], in natural logarithms.

    Args:
        low: The lower end.
        high: The upper end.
        bins: How many.
    """

    low: float = -20.0
    high: float = 20.0
    bins: int = 200

    def __post_init__(self) -> None:
        check_range("bins", self.bins, 1, 100_000)
        check_range("low", self.low)
        check_range("high", self.high, self.low, open_low=True)

    @property
    def edges(self) -> NDArray[np.float64]:
        """The ends of the bins, (bins + 1,)."""
        return np.linspace(self.low, self.high, self.bins + 1)

    @property
    def width(self) -> float:
        """The width of a bin."""
        return (self.high - self.low) / self.bins


@dataclass(frozen=True)
class Tally:
    """What was counted of r over some entries.

    An entry with g = 0, with a g that is denormal, or with |g| at most `eps`, has no r and is excluded; each kind is
    counted. The others have one; it is minus infinity where h = g.

    Args:
        entries: All.
        zero: g = 0 and h is not.
        both_zero: g = 0 and h = 0.
        denormal: g is not zero and smaller than the smallest normal number of its type.
        below_eps: |g| is at most `eps` and none of these.
        same: h = g.
        negative: r < 0, those with h = g among them.
        below_floor: |h - g| is at most |g| times the rounding of its type: no more than rounding may be left.
        histogram: (bins,) of the grid.
        under: Below the grid, not minus infinity.
        over: Above the grid.
        fine: (bins * 32,), the same in fine bins.
    """

    entries: int
    zero: int
    both_zero: int
    denormal: int
    below_eps: int
    same: int
    negative: int
    below_floor: int
    histogram: Counts
    under: int
    over: int
    fine: Counts

    @property
    def excluded(self) -> int:
        """The entries that have no r."""
        return self.zero + self.both_zero + self.denormal + self.below_eps

    @property
    def counted(self) -> int:
        """The entries that have an r."""
        return self.entries - self.excluded

    @property
    def fraction_negative(self) -> float:
        """The fraction with r < 0 of those that have an r; NaN where none has."""
        return self.negative / self.counted if self.counted else math.nan

    @property
    def fraction_below_floor(self) -> float:
        """The fraction at or below rounding of those that have an r; NaN where none has."""
        return self.below_floor / self.counted if self.counted else math.nan

    def quantile(self, q: float, grid: Grid) -> float:
        """Return the value below which a fraction q of all r lie, to the width of a fine bin.

        Minus infinity where it is among those with h = g, and the grid's end where it is beyond it; NaN without any r.
        """
        if not self.counted:
            return math.nan
        wanted = q * self.counted - self.same
        if wanted <= 0 < self.same:
            return -math.inf
        below = self.under + np.concatenate([[0], np.cumsum(self.fine)])
        if wanted <= below[0]:
            return grid.low
        if wanted > below[-1]:
            return grid.high
        i = int(np.searchsorted(below, wanted, side="left"))
        inside = (wanted - below[i - 1]) / (below[i] - below[i - 1])
        return grid.low + grid.width / FINE * (i - 1 + float(inside))

    def __add__(self, other: Tally) -> Tally:
        """Return what was counted over both."""
        return Tally(**{name: getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__})


class Counter:
    """Counts r over pairs of gradients; everything stays on the device until it is read.

    Args:
        tensors: How many tensors a gradient has.
        grid: The bins.
        eps: Entries with |g| at most this are excluded.
        device: Where the gradients are.
    """

    def __init__(self, tensors: int, grid: Grid, eps: float, device: torch.device) -> None:
        self._grid, self._eps = grid, eps
        self._fine = grid.bins * FINE
        self._traits = torch.zeros(tensors, len(_TRAITS), dtype=torch.int64, device=device)
        # Under the grid, its fine bins, over it, h = g, and no r.
        self._slots = torch.zeros(tensors, self._fine + 4, dtype=torch.int64, device=device)

    @torch.no_grad()
    def add(self, clean: Sequence[Tensor], perturbed: Sequence[Tensor]) -> None:
        """Count the entries of a clean gradient g and a perturbed one h."""
        for i, (g, h) in enumerate(zip(clean, perturbed, strict=True)):
            g, h = _wide(g).reshape(-1), _wide(h).reshape(-1)
            for start in range(0, g.numel(), _CHUNK):
                self._add(i, g[start : start + _CHUNK], h[start : start + _CHUNK])

    def _add(self, i: int, g: Tensor, h: Tensor) -> None:
        kind = torch.finfo(g.dtype)
        apart, size = (h - g).abs_(), g.abs()
        zero, finite = size == 0, torch.isfinite(apart)
        both = zero & (h == 0)
        denormal = (size < kind.tiny) & ~zero
        small = (size <= self._eps) & (size >= kind.tiny)
        has = (size >= kind.tiny) & (size > self._eps) & finite
        negative, floor = (apart < size) & has, (apart <= size * kind.eps) & has
        flags = (zero & ~both, both, denormal, small, ~finite, negative, floor)
        self._traits[i, 0] += g.numel()
        self._traits[i, 1:] += torch.stack([f.sum() for f in flags])
        r = apart.log() - size.log()
        place = ((r - self._grid.low) * (FINE / self._grid.width)).floor_().clamp_(-1, self._fine).add_(1)
        place = torch.where(apart == 0, self._fine + 2, place)
        place = torch.where(has, place, self._fine + 3).long()
        self._slots[i] += counts(place, self._fine + 4, quick=place.device.type == "cpu")

    @property
    def negatives(self) -> Tensor:
        """The numbers of entries with r < 0 and of those that have an r until now, (2,), on the device."""
        return torch.stack([self._traits[:, 6].sum(), self._slots[:, :-1].sum()])

    def sum(self, comm: Comm) -> None:
        """Add what other ranks have counted."""
        comm.sum_([self._traits, self._slots])

    def read(self) -> tuple[list[Tally], int]:
        """Return what was counted of every tensor, and how many entries were not finite."""
        traits, slots = self._traits.cpu().numpy(), self._slots.cpu().numpy()
        tallies = [self._tally(row, places) for row, places in zip(traits, slots, strict=True)]
        return tallies, int(traits[:, _TRAITS.index("not_finite")].sum())

    def _tally(self, traits: Counts, places: Counts) -> Tally:
        fine = places[1 : self._fine + 1]
        named = {name: int(value) for name, value in zip(_TRAITS, traits, strict=True) if name != "not_finite"}
        return Tally(
            **named,
            same=int(places[self._fine + 2]),
            histogram=fine.reshape(self._grid.bins, FINE).sum(1),
            under=int(places[0]),
            over=int(places[self._fine + 1]),
            fine=fine,
        )


def counts(place: Tensor, size: int, *, quick: bool) -> Tensor:
    """Return how often each of 0, ..., size - 1 is in `place`; the quick way would wait for a device."""
    if quick:
        return torch.bincount(place, minlength=size)
    return torch.zeros(size, dtype=place.dtype, device=place.device).scatter_add_(0, place, torch.ones_like(place))


def _wide(t: Tensor) -> Tensor:
    return t if t.dtype in (torch.float32, torch.float64) else t.float()

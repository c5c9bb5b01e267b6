"""What the entries of a sparse mask come in: single, by filter, by tensor, or two of every four.

A structure cuts the parameters into units. A mask is one flag a unit, kept as one boolean tensor a parameter that
broadcasts to it, so that a mask by tensor or filter takes no memory to speak of.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from sharpkit.core import filters
from sharpkit.core.vec import Vec
from sharpkit.recipes.choosing import fitting, largest, smallest

StructureName = Literal["element", "filter", "tensor", "2:4"]

_GROUP = 4


def _cut(values: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    return list(cast("tuple[Tensor, ...]", values.split(list(sizes))))  # pyright: ignore[reportUnknownMemberType]


class Structure(ABC):
    """Units of the parameters that may be perturbed at all.

    Args:
        params: All trainable parameters.
        allowed: Which of them may be perturbed; the others have no units.
        owners: The layer that computes with each, which says what its filters are; None where there is none.
    """

    inside = False
    """Whether the norm is taken over the mask, because the rest of the gradient is not computed."""

    def __init__(
        self, params: Sequence[Tensor], allowed: Sequence[bool], owners: Sequence[nn.Module | None] | None = None
    ) -> None:
        self.params = list(params)
        self.allowed = list(allowed)
        self.owners = [None] * len(self.params) if owners is None else list(owners)

    def kept(self, sparsity: float) -> int:
        """Return k = d - round(s d), the number of entries that may be perturbed, of d that are allowed."""
        total = sum(p.numel() for p, a in zip(self.params, self.allowed, strict=True) if a)
        return total - round(sparsity * total)

    def reduce(self, v: Vec) -> Tensor:
        """Return the mean of v over every unit, (units,)."""
        return torch.cat([self._reduce(t.detach(), o) for t, o, a in self._each(v) if a])

    def expand(self, flags: Tensor) -> Vec:
        """Return a mask, one boolean tensor a parameter, from flags (units,)."""
        parts = iter(_cut(flags.to(self.params[0].device), self._counts()))
        return [
            self._spread(next(parts), p, o) if a else torch.zeros((), dtype=torch.bool, device=p.device)
            for p, o, a in self._each(self.params)
        ]

    def flags(self, mask: Vec) -> Tensor:
        """Return the flags (units,) that a mask was expanded from; a scalar holds for all units of a parameter."""
        pairs = zip(mask, self._each(self.params), strict=True)
        return torch.cat([
            self._gathered(m, p, o) if m.dim() or p.numel() == 1 else m.expand(self._count(p, o))
            for m, (p, o, a) in pairs
            if a
        ])  # fmt: skip

    def random(self, generator: torch.Generator) -> Tensor:
        """Return random scores (units,), the same on every device."""
        scores = torch.rand(sum(self._counts()), generator=generator)
        return scores.to(self.params[0].device)

    @abstractmethod
    def select(self, scores: Tensor, sparsity: float) -> Tensor:
        """Return flags of the units of the largest scores (units,)."""

    @abstractmethod
    def exchange(self, live: Tensor, worth: Tensor, luck: Tensor, fraction: float, sparsity: float) -> Tensor:
        """Return the flags after units of least worth have made room for as many that were not live.

        Args:
            live: Flags (units,).
            worth: Of every unit (units,); of equal ones the last is worth less.
            luck: Random scores (units,); the luckiest of those that were not live grow.
            fraction: The part of the live entries that is exchanged, as far as there are others.
            sparsity: Of the mask.
        """

    def _each(self, v: Sequence[Tensor]) -> Iterator[tuple[Tensor, nn.Module | None, bool]]:
        """Yield what is aligned with the parameters with each one's owner, and whether it may be perturbed."""
        return zip(v, self.owners, self.allowed, strict=True)

    def _counts(self) -> list[int]:
        """Return the units of every parameter that may be perturbed."""
        return [self._count(p, o) for p, o, a in self._each(self.params) if a]

    @abstractmethod
    def _count(self, p: Tensor, owner: nn.Module | None) -> int:
        """Return the number of units of a parameter."""

    @abstractmethod
    def _reduce(self, t: Tensor, owner: nn.Module | None) -> Tensor:
        """Return the mean over a parameter's units, (units of the parameter,)."""

    @abstractmethod
    def _spread(self, flags: Tensor, p: Tensor, owner: nn.Module | None) -> Tensor:
        """Return a flag a unit, (units of the parameter,), in a shape that broadcasts to the parameter's."""

    def _gathered(self, mask: Tensor, p: Tensor, owner: nn.Module | None) -> Tensor:
        """Return the flags that `_spread` was given."""
        return mask.reshape(-1)


class Elements(Structure):
    """Every entry is a unit; the largest are chosen over all parameters jointly."""

    def select(self, scores: Tensor, sparsity: float) -> Tensor:
        """Return flags of the k largest scores."""
        return largest(scores, self.kept(sparsity))

    def exchange(self, live: Tensor, worth: Tensor, luck: Tensor, fraction: float, sparsity: float) -> Tensor:
        """Exchange exactly as many entries as leave."""
        count, size = int(live.sum()), live.numel()
        moved = round(min(fraction * count, size - count))
        leaving = smallest(torch.where(live, worth, torch.inf), moved)
        coming = largest(torch.where(live, -1.0, luck), moved)
        return live & ~leaving | coming

    def _count(self, p: Tensor, owner: nn.Module | None) -> int:
        return p.numel()

    def _reduce(self, t: Tensor, owner: nn.Module | None) -> Tensor:
        return t.reshape(-1)

    def _spread(self, flags: Tensor, p: Tensor, owner: nn.Module | None) -> Tensor:
        return flags.view(p.shape)


class Blocks(Structure):
    """Units of different sizes: they are taken in the order of their scores as long as they fit into k entries."""

    inside = True

    def select(self, scores: Tensor, sparsity: float) -> Tensor:
        """Return flags of the units of the largest scores that fit, of one unit where none does."""
        if sparsity == 1:
            return torch.zeros_like(scores, dtype=torch.bool)
        sizes = self._sizes()
        order = torch.sort(scores.cpu(), descending=True, stable=True).indices
        flags = fitting(order, sizes, self.kept(sparsity))
        if not flags.any():
            flags[next(unit for unit in order if sizes[unit] == sizes.min())] = True
        return flags

    def exchange(self, live: Tensor, worth: Tensor, luck: Tensor, fraction: float, sparsity: float) -> Tensor:
        """Drop units as long as they fit into the entries to be moved, and grow others as long as they fit into k."""
        live, worth, luck, sizes = live.cpu(), worth.cpu(), luck.cpu(), self._sizes()
        count, total = int(sizes[live].sum()), int(sizes.sum())
        moved = round(min(fraction * count, total - count))
        flattest = torch.sort(worth, descending=True, stable=True).indices.flip(0)
        left = live & ~fitting(flattest[live[flattest]], sizes, moved)
        luckiest = torch.sort(luck, descending=True, stable=True).indices
        room = max(self.kept(sparsity), count) - int(sizes[left].sum())
        return left | fitting(luckiest[~live[luckiest]], sizes, room)

    def _sizes(self) -> Tensor:
        sizes: list[int] = []
        for p, o, a in self._each(self.params):
            units = self._count(p, o)
            sizes += [p.numel() // units] * units if a else []
        return torch.tensor(sizes)


class Filters(Blocks):
    """A unit is what makes one output, see `sharpkit.core.filters`; tensors with a single axis are one unit each."""

    def _count(self, p: Tensor, owner: nn.Module | None) -> int:
        return filters.count(p, owner)

    def _reduce(self, t: Tensor, owner: nn.Module | None) -> Tensor:
        return filters.filters(t, owner).mean(1)

    def _spread(self, flags: Tensor, p: Tensor, owner: nn.Module | None) -> Tensor:
        return filters.spread(flags, p, owner)

    def _gathered(self, mask: Tensor, p: Tensor, owner: nn.Module | None) -> Tensor:
        return filters.gathered(mask, p, owner)


class Tensors(Blocks):
    """A unit is a whole tensor."""

    def _count(self, p: Tensor, owner: nn.Module | None) -> int:
        return 1

    def _reduce(self, t: Tensor, owner: nn.Module | None) -> Tensor:
        return t.mean().reshape(1)

    def _spread(self, flags: Tensor, p: Tensor, owner: nn.Module | None) -> Tensor:
        return flags.view(())


class TwoOfFour(Elements):
    """Two of every four consecutive entries of a row, as sparse tensor cores take them; tensors of one axis are whole.

    The rest of a row, r < 4 entries, keeps ceil(r / 2).
    """

    def select(self, scores: Tensor, sparsity: float) -> Tensor:
        """Return flags of the two largest of each group; the sparsity is a half, as the mask has checked."""
        flags = [self._best(rows) for rows in self._grouped(scores)]
        return self._ungrouped(flags)

    def exchange(self, live: Tensor, worth: Tensor, luck: Tensor, fraction: float, sparsity: float) -> Tensor:
        """Exchange at most one entry of each group: the groups' flattest live entries compete for leaving."""
        count, size = int(live.sum()), live.numel()
        grouped = [self._grouped(torch.where(live, worth, torch.inf)), self._grouped(torch.where(live, -1.0, luck))]
        leaving, coming = ([one(part) for part in parts] for one, parts in zip((_least, _most), grouped, strict=True))
        worths = [part.amin(1) for part in grouped[0]]
        # A group without a dead entry, of one that is left over, has nothing to exchange.
        closed = [part.amax(1) < 0 for part in grouped[1]]
        bids = torch.cat([torch.where(c, torch.inf, w) for c, w in zip(closed, worths, strict=True)])
        moved = min(round(min(fraction * count, size - count)), int((bids < torch.inf).sum()))
        moves = _cut(smallest(bids, moved), [len(w) for w in worths])
        out = self._ungrouped([f & m[:, None] for f, m in zip(leaving, moves, strict=True)])
        new = self._ungrouped([f & m[:, None] for f, m in zip(coming, moves, strict=True)])
        return live & ~out | new

    def _rows(self) -> list[tuple[int, int, bool]]:
        """Return rows, entries of a row, and whether it is cut into groups, of every allowed parameter."""
        allowed = [p for p, a in zip(self.params, self.allowed, strict=True) if a]
        return [(p.shape[0], p.numel() // p.shape[0], True) if p.dim() > 1 else (1, p.numel(), False) for p in allowed]

    def _grouped(self, values: Tensor) -> list[Tensor]:
        """Return groups (n, r) of one size each: of four, and of what is left of the rows."""
        groups: list[Tensor] = []
        layout = self._rows()
        for part, (rows, width, cut) in zip(_cut(values, [r * w for r, w, _ in layout]), layout, strict=True):
            if cut:
                whole = width - width % _GROUP
                lines = part.view(rows, width)
                groups += [lines[:, :whole].reshape(-1, _GROUP), lines[:, whole:]]
        return [g for g in groups if g.numel()]

    def _ungrouped(self, groups: Sequence[Tensor]) -> Tensor:
        """Return flags (units,) from those of the groups; entries that are in no group are flagged when these are."""
        waiting = iter(groups)
        parts: list[Tensor] = []
        for rows, width, cut in self._rows():
            if not cut:
                parts.append(torch.ones(width, dtype=torch.bool, device=self.params[0].device))
                continue
            whole = width - width % _GROUP
            pieces = [next(waiting).reshape(rows, -1) for size in (whole, width - whole) if size]
            parts.append(torch.cat(pieces, dim=1).reshape(-1))
        return torch.cat(parts)

    @staticmethod
    def _best(rows: Tensor) -> Tensor:
        count = -(-rows.shape[1] // 2)
        order = torch.sort(rows, dim=1, descending=True, stable=True).indices
        return torch.zeros_like(rows, dtype=torch.bool).scatter_(1, order[:, :count], True)


def _least(rows: Tensor) -> Tensor:
    last = rows.shape[1] - 1 - rows.flip(1).argmin(1, keepdim=True)
    return torch.zeros_like(rows, dtype=torch.bool).scatter_(1, last, True)


def _most(rows: Tensor) -> Tensor:
    return torch.zeros_like(rows, dtype=torch.bool).scatter_(1, rows.argmax(1, keepdim=True), True)


STRUCTURES: dict[StructureName, type[Structure]] = {
    "element": Elements,
    "filter": Filters,
    "tensor": Tensors,
    "2:4": TwoOfFour,
}

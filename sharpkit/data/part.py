"""What the engine knows of samples, wherever their inputs lie: in memory or in files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

from sharpkit.core.task import Batch, Tree, portion
from sharpkit.data.augment import PLAIN, Among, Augment
from sharpkit.errors import UsageError

Plan = Sequence[tuple[Tensor, int]]
"""For every batch the positions of its samples, (B,) on the CPU, and the seed of its augmentation."""

_AT_ONCE = 1024  # samples of a pass without gradients
_NUMBERS = 2**25  # in their inputs, at most, so that large images fit beside the model


@dataclass(frozen=True)
class Share:
    """Which samples of every batch this process has.

    Args:
        rank: Its number, from 0.
        ranks: Of how many.
        shards: That every batch will be cut into.
    """

    rank: int = 0
    ranks: int = 1
    shards: int = 1

    def of(self, rows: Tensor) -> tuple[Tensor, Among | None, list[int] | None]:
        """Return its rows of a batch's, which ones they are, and how many every rank has."""
        if self.ranks == 1:
            return rows, None, None
        positions, parts = portion(len(rows), self.rank, self.ranks, self.shards)
        return rows[positions], Among(len(rows), positions), parts


ALL = Share()


class Batched(Protocol):
    """Samples that batches are made of."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input as the model sees it."""
        ...

    def __len__(self) -> int: ...

    def batches(self, plan: Plan, augment: Augment = PLAIN, share: Share = ALL) -> Iterator[Batch]:
        """Yield the batches of a plan, or a share of every one, augmented, as the model sees them."""
        ...


class Part(Batched, Protocol):
    """Samples for training, validation or testing, in a fixed order."""

    @property
    def targets(self) -> Tensor:
        """Class numbers, or numbers to be predicted, (N,)."""
        ...

    @property
    def indices(self) -> Tensor:
        """Stable sample numbers, (N,)."""
        ...

    def take(self, rows: Tensor) -> Self:
        """Return the samples at the positions `rows`, (n,)."""
        ...

    def relabelled(self, targets: Tensor) -> Self:
        """Return the same samples with other targets, (N,)."""
        ...

    def to(self, device: torch.device) -> Self:
        """Return the samples so that their batches are on a device."""
        ...

    def whole(self) -> Plan:
        """Return the plan of all samples, in any order, for a pass without gradients."""
        ...

    def together(self) -> Batch:
        """Return all samples as one batch, not augmented."""
        ...

    def checksum(self, start: int) -> int:
        """Continue a CRC-32 with everything that a run depends on, or a cheap stand-in for it."""
        ...


def in_order(count: int, size: int) -> Plan:
    """Return the plan of `count` samples in batches of `size`, as they come, not augmented."""
    return _seedless(torch.arange(count), size)


def at_random(samples: int, size: int, batches: int, generator: torch.Generator, *, replacement: bool = False) -> Plan:
    """Return the plan of batches of `size` out of so many samples, not augmented.

    Without replacement they are the whole batches of one pass over the samples in random order, then of another pass;
    with it every sample is drawn on its own.

    Raises:
        UsageError: If there are fewer samples than a batch has.
    """
    if replacement:
        return [(torch.randint(samples, (size,), generator=generator), 0) for _ in range(batches)]
    if size > samples:
        raise UsageError(f"batch-size is {size}, and there are {samples} samples", "give a smaller --batch-size")
    plan: list[tuple[Tensor, int]] = []
    while len(plan) < batches:
        order = torch.randperm(samples, generator=generator)
        plan += _seedless(order[: samples // size * size], size)
    return plan[:batches]


def _seedless(rows: Tensor, size: int) -> Plan:
    return [(rows[start : start + size], 0) for start in range(0, len(rows), size)]


def in_order_that_fits(part: Batched) -> Plan:
    """Return the plan of all samples as they come, in batches as large as their inputs allow."""
    return in_order(len(part), max(1, min(_AT_ONCE, _NUMBERS // max(1, math.prod(part.shape)))))


def as_one_batch(part: Batched) -> Batch:
    """Return all samples as one batch, not augmented."""
    return next(iter(part.batches(in_order(len(part), len(part)))))


def drawn(part: Part, count: int, generator: torch.Generator) -> tuple[Tree, Tensor]:
    """Return that many samples without replacement, not augmented; all of them where there are fewer.

    Args:
        part: What is drawn from.
        count: How many.
        generator: On the CPU.

    Returns:
        Inputs (n, ...) and targets (n,).
    """
    batch = part.take(torch.randperm(len(part), generator=generator)[:count]).together()
    return batch.inputs, batch.targets

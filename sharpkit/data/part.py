"""What the engine knows of samples, wherever their inputs lie: in memory or in files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, Self

import torch
from torch import Tensor

from sharpkit.core.task import Batch
from sharpkit.data.augment import PLAIN, Augment
from sharpkit.errors import UsageError

Plan = Sequence[tuple[Tensor, int]]
"""For every batch the positions of its samples, (B,) on the CPU, and the seed of its augmentation."""

_DRAWN_AT_ONCE = 64


class Part(Protocol):
    """Samples for training, validation or testing, in a fixed order."""

    @property
    def targets(self) -> Tensor:
        """Class numbers, (N,)."""
        ...

    @property
    def indices(self) -> Tensor:
        """Stable sample numbers, (N,)."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input as the model sees it."""
        ...

    def __len__(self) -> int: ...

    def take(self, rows: Tensor) -> Self:
        """Return the samples at the positions `rows`, (n,)."""
        ...

    def relabelled(self, targets: Tensor) -> Self:
        """Return the same samples with other targets, (N,)."""
        ...

    def to(self, device: torch.device) -> Self:
        """Return the samples so that their batches are on a device."""
        ...

    def batches(self, plan: Plan, augment: Augment = PLAIN) -> Iterator[Batch]:
        """Yield the batches of a plan, augmented, as the model sees them."""
        ...

    def checksum(self, start: int) -> int:
        """Continue a CRC-32 with everything that a run depends on, or a cheap stand-in for it."""
        ...


def in_order(count: int, size: int) -> Plan:
    """Return the plan of `count` samples in batches of `size`, as they come."""
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


def drawn(part: Part, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return that many samples without replacement, not augmented; all of them where there are fewer.

    Args:
        part: What is drawn from.
        count: How many.
        generator: On the CPU.

    Returns:
        Inputs (n, ...) and targets (n,).
    """
    rows = torch.randperm(len(part), generator=generator)[:count]
    batches = list(part.batches(_seedless(rows, _DRAWN_AT_ONCE)))
    return torch.cat([batch.inputs for batch in batches]), torch.cat([batch.targets for batch in batches])


def _seedless(rows: Tensor, size: int) -> Plan:
    """Return the plan of batches of samples that are not augmented."""
    return [(rows[start : start + size], 0) for start in range(0, len(rows), size)]

"""The work of a diagnostic over several ranks: which samples each has, and when all of them stop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, chain, islice, pairwise
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from sharpkit.core.comm import Comm
from sharpkit.core.task import Batch, sizes, tensors
from sharpkit.errors import UsageError

T = TypeVar("T")
P = ParamSpec("P")

_ENTRIES = 1 << 20
"""Entries of a tensor that are looked at together."""


def portion(batches: Iterable[Batch], samples: int, comm: Comm, *, whole: bool) -> Iterator[tuple[int, Batch]]:
    """Yield what a rank has of all samples, each piece with the number of its batch: consecutive ones, equally many.

    Args:
        batches: All samples, the same on every rank.
        samples: N, how many they are.
        comm: The ranks.
        whole: Leave batches in one piece, because their samples depend on each other.
    """
    first, last = samples * comm.rank // comm.size, samples * (comm.rank + 1) // comm.size
    before = 0
    for number, batch in enumerate(batches):
        size = batch.size
        if whole:
            if _owner(before, size, samples, comm) == comm.rank:
                yield number, batch
        else:
            start, stop = max(0, first - before), min(size, last - before)
            if start < stop:
                yield number, batch if stop - start == size else batch.select_range(start, stop)
        before += size


def spread(batch: Batch, pieces: int, comm: Comm, *, whole: bool) -> tuple[Batch, int]:
    """Return what a rank has of a batch that lies on all of them, and how many pieces it is evaluated in.

    Args:
        batch: The same on every rank.
        pieces: Micro-batches that it would be cut into on a single one.
        comm: The ranks.
        whole: Leave these in one piece, because their samples depend on each other.
    """
    if comm.size == 1:
        return batch, pieces
    cuts = sizes(batch.size, min(pieces, batch.size))
    if whole:
        ends = list(accumulate(cuts, initial=0))
        owners = [_owner(start, size, batch.size, comm) for start, size in zip(ends, cuts, strict=False)]
        parts = [sum(size for size, o in zip(cuts, owners, strict=True) if o == r) for r in range(comm.size)]
        here = owners.count(comm.rank)
    else:
        ends = [batch.size * r // comm.size for r in range(comm.size + 1)]
        parts = [stop - start for start, stop in pairwise(ends)]
        here = -(-parts[comm.rank] // cuts[0])
    return batch.part_of(comm.rank, parts), max(1, here)


def _owner(before: int, size: int, samples: int, comm: Comm) -> int:
    """Return which rank has a piece of some samples: the one that its middle falls to."""
    return (2 * before + size) * comm.size // (2 * samples)


def rounds(items: Iterable[T], size: int) -> Iterator[tuple[int, list[T]]]:
    """Yield items in groups of one for every rank, with the number of the first; the last group may be smaller."""
    source, number = iter(items), 0
    while group := list(islice(source, size)):
        yield number, group
        number += len(group)


def gathered(rows: Sequence[Tensor], like: Tensor, done: int, comm: Comm) -> Tensor:
    """Return what every rank found of its items, (done, k), in the order in which `rounds` gave them out.

    Args:
        rows: (k,) of each item of this rank.
        like: (k,) of the same type and device, for a rank without any.
        done: Items of all ranks.
        comm: The ranks.
    """
    here = torch.stack(list(rows)) if rows else like.new_zeros(0, len(like))
    if comm.size == 1 or not done:
        return here
    counts = [len(range(rank, done, comm.size)) for rank in range(comm.size)]
    starts = np.concatenate([[0], np.cumsum(counts)])
    order = [int(starts[k % comm.size]) + k // comm.size for k in range(done)]
    return comm.gather(here, counts)[torch.tensor(order, dtype=torch.int64, device=here.device)]


def unanimous(watch: Callable[P, bool] | None, comm: Comm, device: torch.device) -> Callable[P, bool] | None:
    """Return a watch that lets go on only where those of all ranks do; asked on every rank at the same points.

    Args:
        watch: This rank's; None lets go on.
        comm: The ranks.
        device: Where they exchange tensors.
    """
    if comm.size == 1 or not any(comm.objects(watch is not None)):
        return watch

    def asked(*args: P.args, **kwargs: P.kwargs) -> bool:
        stop = torch.tensor(watch is not None and not watch(*args, **kwargs), device=device)
        comm.any_(stop)
        return not bool(stop)

    return asked


def seed_of(seed: int, number: int) -> int:
    """Return the seed of the random choices for an item, whichever rank has it; that of the first is `seed` itself."""
    return seed if number == 0 else int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def require_alike(model: nn.Module, batches: Sequence[Any], comm: Comm) -> None:
    """Refuse ranks whose weights or samples differ: what they find together would belong to none of them.

    Raises:
        UsageError: If so.
    """
    if comm.size == 1:
        return
    here = _print(chain(model.parameters(), model.buffers())), [_print(_of(batch)) for batch in batches]
    for what, remedy, every in zip(
        ("models of other weights", "other samples, or samples in another order"),
        ("load the same checkpoint on all of them", "give every rank the same batches; each takes its part of them"),
        zip(*comm.objects(here), strict=True),
        strict=True,
    ):
        if any(one != every[0] for one in every[1:]):
            raise UsageError(f"the ranks have {what}, allowed are the same on all", remedy)


def _of(given: Any) -> Iterator[Tensor]:
    batch = Batch.of(given)
    return chain(tensors(batch.inputs), tensors(batch.targets))


def _print(values: Iterable[Tensor]) -> list[tuple[str, int]]:
    """Return what differs where tensors do: of each its form, and sum_i (i + 1) x_i of the bits x_i, modulo 2^64.

    In integers, so that machines that add up in another order find the same.
    """
    return [(f"{t.dtype} {tuple(t.shape)}", _sum(t)) for t in values]


def _sum(values: Tensor) -> int:
    flat = values.detach().contiguous().reshape(-1).view(torch.uint8 if values.element_size() < 4 else torch.int32)
    total = torch.zeros((), dtype=torch.int64, device=flat.device)
    for start in range(0, len(flat), _ENTRIES):
        piece = flat[start : start + _ENTRIES].to(torch.int64)
        total += (piece * torch.arange(start + 1, start + 1 + len(piece), device=flat.device)).sum()
    return int(total)

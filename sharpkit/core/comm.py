"""What the ranks of a run tell each other; in a single process every exchange is the identity.

The engine talks to other processes through this interface only, so that no other part knows how many there are. Every
rank makes the same exchanges in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, Literal, Protocol, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from sharpkit.errors import RankError, UsageError

_dist: Any = dist  # its functions are annotated in part

T = TypeVar("T")

AscentScope = Literal["global", "local"]
"""Whose gradient is climbed: that of the batch on all ranks together, or every rank its own part's (m-sharpness)."""


class Comm(Protocol):
    """The exchanges that a run needs."""

    @property
    def rank(self) -> int:
        """This process's number, from 0."""
        ...

    @property
    def size(self) -> int:
        """How many processes there are."""
        ...

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace every tensor by its sum over the ranks, the same bit for bit on all of them."""
        ...

    def begin_sum_(self, tensor: Tensor) -> Callable[[], object]:
        """Begin to replace a contiguous tensor by its sum over the ranks; what is returned waits for the end."""
        ...

    def any_(self, flag: Tensor) -> None:
        """Replace a 0-dim boolean by whether it holds on any rank."""
        ...

    def broadcast_(self, tensors: Sequence[Tensor], source: int = 0) -> None:
        """Replace every tensor by that of a rank."""
        ...

    def gather(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """Return the rows (n_r, ...) of all ranks one after the other; every rank knows all n_r."""
        ...

    def swap_(self, mine: Tensor | None, theirs: Tensor | None) -> None:
        """Of two ranks, give the other one a tensor and fill one with what it gives; either may be left out."""
        ...

    def objects(self, value: T) -> list[T]:
        """Return the plain values of all ranks; waits for the device."""
        ...

    def agreed(self, value: T) -> T:
        """Return rank 0's plain value; waits for the device."""
        ...


class SingleProcess:
    """One process: there is nobody to talk to."""

    rank: int = 0
    size: int = 1

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Leave the tensors: they are their own sum."""

    def begin_sum_(self, tensor: Tensor) -> Callable[[], object]:
        """Leave the tensor."""
        return _nothing

    def any_(self, flag: Tensor) -> None:
        """Leave the flag: this is the only rank."""

    def broadcast_(self, tensors: Sequence[Tensor], source: int = 0) -> None:
        """Leave the tensors: this is rank 0."""

    def gather(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """Return the rows."""
        return rows

    def swap_(self, mine: Tensor | None, theirs: Tensor | None) -> None:
        """Leave the tensors: there is no other rank."""

    def objects(self, value: T) -> list[T]:
        """Return the value alone."""
        return [value]

    def agreed(self, value: T) -> T:
        """Return the value."""
        return value


ALONE = SingleProcess()


class Ranks:
    """The processes of torch.distributed's default group, or of a part of it.

    Args:
        group: The processes; None is all of them. They exchange tensors of the CPU, and of their accelerator if the
            group has a backend for it.
    """

    def __init__(self, group: Any = None) -> None:
        self._group = group
        self.rank: int = dist.get_rank(group)
        self.size: int = dist.get_world_size(group)

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Add up in one message for each type and device."""
        for some in _by_kind(tensors):
            if len(some) == 1 and some[0].is_contiguous():
                _done(_dist.all_reduce, some[0], group=self._group)
                continue
            flat = torch.cat([t.reshape(-1) for t in some])
            _done(_dist.all_reduce, flat, group=self._group)
            _spread(flat, some)

    def begin_sum_(self, tensor: Tensor) -> Callable[[], object]:
        """Begin to add up; NCCL and gloo both make progress while this process computes."""
        work = _done(_dist.all_reduce, tensor, group=self._group, async_op=True)
        return partial(_done, work.wait)

    def any_(self, flag: Tensor) -> None:
        """Take the largest, as a number: not every backend reduces booleans."""
        number = flag.to(torch.uint8)
        _done(_dist.all_reduce, number, dist.ReduceOp.MAX, group=self._group)
        flag.copy_(number.bool())

    def broadcast_(self, tensors: Sequence[Tensor], source: int = 0) -> None:
        """Send in one message for each type and device."""
        sender = self._global(source)
        for some in _by_kind(tensors):
            flat = torch.cat([t.reshape(-1) for t in some])
            _done(_dist.broadcast, flat, sender, group=self._group)
            if self.rank != source:
                _spread(flat, some)

    def gather(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """Fill up to the longest, since not every backend gathers what is uneven, and cut off again."""
        most = max(counts)
        filled = rows.new_zeros(most, *rows.shape[1:])
        filled[: rows.shape[0]] = rows
        sent = filled.to(torch.uint8) if rows.dtype == torch.bool else filled
        pieces = [torch.empty_like(sent) for _ in counts]
        _done(_dist.all_gather, pieces, sent, group=self._group)
        return torch.cat([piece[:count] for piece, count in zip(pieces, counts, strict=True)]).to(rows.dtype)

    def swap_(self, mine: Tensor | None, theirs: Tensor | None) -> None:
        """Begin two broadcasts, one from either rank, and wait for both."""
        given = (mine, theirs) if self.rank == 0 else (theirs, mine)
        works = [
            _done(_dist.broadcast, t, self._global(source), group=self._group, async_op=True)
            for source, t in enumerate(given)
            if t is not None
        ]
        for work in works:
            _done(work.wait)

    def pairs(self, timeout: float | None = None) -> tuple[Comm, Comm]:
        """Part the ranks into pairs 2n and 2n + 1, whose gradients that do not depend on each other run side by side.

        Every rank calls this once. Both ranks of a pair are given the same samples: those of rank n of N.

        Args:
            timeout: Seconds that a rank waits for another; None is what torch.distributed has for the backend.

        Returns:
            The N ranks that compute the same one of the two gradients as this rank, on parts of the batch, and the
            pair, where this rank's number is which of the two it computes.

        Raises:
            UsageError: If the number of ranks is odd.
        """
        if self.size % 2:
            raise UsageError(
                f"{self.size} ranks cannot be parted into pairs, allowed is an even number",
                "start an even number of processes",
            )
        limit = None if timeout is None else timedelta(seconds=timeout)
        every = [self._global(rank) for rank in range(self.size)]
        columns, rows = [every[0::2], every[1::2]], [every[i : i + 2] for i in range(0, self.size, 2)]
        pair = self._part(rows, limit)
        return (ALONE if self.size == 2 else self._part(columns, limit)), pair

    @staticmethod
    def _part(parts: list[list[int]], timeout: timedelta | None) -> Ranks:
        """Return the part that this rank is in; every rank names all parts."""
        groups = [_done(_dist.new_group, part, timeout=timeout) for part in parts]
        mine = next(i for i, part in enumerate(parts) if dist.get_rank() in part)
        return Ranks(groups[mine])

    def objects(self, value: T) -> list[T]:
        """Exchange by pickle: for plain values of our own making only."""
        values: list[Any] = [None] * self.size
        _done(_dist.all_gather_object, values, value, group=self._group)
        return values

    def agreed(self, value: T) -> T:
        """Exchange by pickle: for plain values of our own making only."""
        values: list[Any] = [value]
        _done(_dist.broadcast_object_list, values, self._global(0), group=self._group)
        return values[0]

    def _global(self, rank: int) -> int:
        return rank if self._group is None else dist.get_global_rank(self._group, rank)


def _done(exchange: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Make an exchange.

    Raises:
        RankError: If a process is lost on the way.
    """
    try:
        return exchange(*arguments, **options)
    except RuntimeError as error:
        raise RankError(
            "an exchange between processes failed" + (", timed out" if "imed out" in str(error) else ""),
            "start them again; training goes on with --resume auto",
        ) from error


def _by_kind(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Return the tensors of each type and device, in an order that is the same on every rank."""
    kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for t in tensors:
        kinds.setdefault((t.dtype, t.device), []).append(t)
    return list(kinds.values())


def _spread(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    pieces = cast("list[Tensor]", flat.split([t.numel() for t in tensors]))
    for piece, t in zip(pieces, tensors, strict=True):
        t.copy_(piece.view(t.shape))


def _nothing() -> None:
    pass

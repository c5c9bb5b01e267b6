"""Gradients of all ranks added up while the backward pass still runs.

Li et al. (2020), "PyTorch Distributed: Experiences on Accelerating Data Parallel Training", section 3.2.3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from sharpkit.core import vec
from sharpkit.core.comm import Comm
from sharpkit.core.message import shaped
from sharpkit.core.vec import Vec

_FIRST = 2**20  # bytes; small, so that the first message leaves early
_BUCKET = 25 * 2**20


@dataclass
class Bucket:
    """Gradients that travel in one message.

    Args:
        positions: Of their parameters.
    """

    positions: list[int]
    waiting: set[int] = field(default_factory=set[int])
    sums: Vec = field(default_factory=Vec)
    wait: Callable[[], object] | None = None


class Reduction:
    """Adds up the gradients of all ranks, bucket by bucket, each as soon as all of it is there.

    Buckets leave in one order on every rank, from the last parameter, whose gradient is there first, to the first one.

    Args:
        comm: The ranks.
        params: What gradients are aligned with.
    """

    def __init__(self, comm: Comm, params: Sequence[Tensor]) -> None:
        self._comm = comm
        self._params = list(params)
        self._position = {id(p): i for i, p in enumerate(params)}
        self._buckets: list[Bucket] = []
        self._next = 0
        self._before: Vec | None = None
        self._handles: list[RemovableHandle] = []

    @torch.no_grad()
    def all_at_once(self, grads: Vec, wanted: Sequence[bool]) -> Vec:
        """Return the sums over the ranks of gradients that are there; of those not wanted, nowhere, as they are."""
        self._begin(wanted)
        for bucket in self._buckets:
            self._send(bucket, [grads[i] for i in bucket.positions])
        return self._received(grads)

    def begin(self, wanted: Sequence[bool], before: Vec | None = None) -> None:
        """Send gradients of the backward pass that follows as they come.

        Args:
            wanted: Which parameters the pass differentiates by, the same on every rank.
            before: Is added to the gradients; what other passes gave.
        """
        self._begin(wanted)
        self._before = before
        for bucket in self._buckets:
            bucket.waiting = set(bucket.positions)
        self._handles = [
            p.register_post_accumulate_grad_hook(self._came)
            for p, flag in zip(self._params, wanted, strict=True)
            if flag
        ]

    @torch.no_grad()
    def end(self, grads: Vec) -> Vec:
        """Send what never came as it is in `grads`, and return the sums over the ranks."""
        self.stop()
        for bucket in self._buckets[self._next :]:
            self._send(bucket, [grads[i] for i in bucket.positions])
        return self._received(grads)

    def stop(self) -> None:
        """Watch no more."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _begin(self, wanted: Sequence[bool]) -> None:
        self._buckets, self._next, self._before = [], 0, None
        filled, kind = 0, None
        for i in reversed(range(len(self._params))):
            if not wanted[i]:
                continue
            p = self._params[i]
            limit = _FIRST if len(self._buckets) <= 1 else _BUCKET
            if not self._buckets or (p.dtype, p.device) != kind or filled >= limit:
                self._buckets.append(Bucket([]))
                filled, kind = 0, (p.dtype, p.device)
            self._buckets[-1].positions.append(i)
            filled += p.numel() * p.element_size()

    @torch.no_grad()
    def _came(self, param: Tensor) -> None:
        """Note that a gradient is there, and send every bucket that is complete and whose turn it is."""
        i = self._position[id(param)]
        for bucket in self._buckets:
            bucket.waiting.discard(i)
        while self._next < len(self._buckets) and not self._buckets[self._next].waiting:
            bucket = self._buckets[self._next]
            grads = [g for i in bucket.positions if (g := self._params[i].grad) is not None]
            if len(grads) < len(bucket.positions) or any(g.layout is not torch.strided for g in grads):
                return  # sparse ones are made dense when the pass is over
            if self._before is not None:
                grads = vec.add(grads, [self._before[i] for i in bucket.positions])
            self._send(bucket, grads)
            self._next += 1

    def _send(self, bucket: Bucket, grads: Vec) -> None:
        flat = grads[0].new_empty(_entries(grads))
        bucket.sums = _views(flat, [self._params[i] for i in bucket.positions])
        vec.copy_(bucket.sums, grads)
        bucket.wait = self._comm.begin_sum_(flat)

    def _received(self, grads: Vec) -> Vec:
        summed = list(grads)
        for bucket in self._buckets:
            assert bucket.wait is not None
            bucket.wait()
            for i, total in zip(bucket.positions, bucket.sums, strict=True):
                summed[i] = total
        self._buckets, self._before = [], None
        return summed


def _entries(tensors: Vec) -> int:
    return sum(t.numel() for t in tensors)


def _views(flat: Tensor, like: Vec) -> Vec:
    """Return pieces of a vector as tensors of the shapes, and where they are dense the memory formats, of others."""
    pieces = cast("list[Tensor]", flat.split([t.numel() for t in like]))
    return [shaped(piece, t) for piece, t in zip(pieces, like, strict=True)]

"""Tensors of which every rank holds a shard: torch's DTensor, which FSDP2 makes of parameters.

Almost all of a step is elementwise, and is done on the shards that are here; sums over all entries are put together
from those of all ranks.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sharpkit.core.comm import Ranks

_PLAIN = (Tensor, nn.Parameter)


def is_sharded(tensor: Tensor) -> bool:
    """Return whether this is a tensor whose entries lie on several ranks."""
    return type(tensor) not in _PLAIN and (kind := _kind()) is not None and isinstance(tensor, kind)


def local(v: Sequence[Tensor]) -> list[Tensor]:
    """Return what of every tensor is here, all of it where it is not sharded; writing to it writes to the tensor."""
    if not v or not is_sharded(v[0]):
        return list(v)
    parts: list[Any] = list(v)
    with torch.no_grad():
        return [part.to_local() for part in parts]


def spread(parts: Sequence[Tensor], like: Sequence[Tensor]) -> list[Tensor]:
    """Return tensors that lie on the ranks as those of `like` do, of each of which the part that is here is given."""
    if not like or not is_sharded(like[0]):
        return list(parts)
    kind, wholes = _kind(), list[Any](like)
    assert kind is not None
    return [
        kind.from_local(part, t.device_mesh, t.placements, run_check=False, shape=t.shape, stride=t.stride())
        for part, t in zip(parts, wholes, strict=True)
    ]


def of_all_ranks(value: Tensor, like: Tensor) -> Tensor:
    """Return what a 0-dim value is on every rank that has a shard of a tensor, (ranks,), in one order everywhere.

    Ranks with a copy of the same shard are not asked twice.
    """
    group = shard_group(like)
    return group.gather(value.reshape(1), [1] * group.size)


def shard_group(tensor: Any) -> Ranks:
    """Return the ranks that the shards of a tensor lie on."""
    (dim,) = [dim for dim, placement in enumerate(tensor.placements) if placement.is_shard()]
    return Ranks(tensor.device_mesh.get_group(dim))


def whole(tensor: Tensor) -> Tensor:
    """Return all entries of a tensor, plain; every rank of it takes part."""
    sharded: Any = tensor
    return sharded.full_tensor() if is_sharded(tensor) else tensor


def distributed(tensor: Tensor, like: Any) -> Tensor:
    """Return this rank's shard of a plain tensor that every rank has, as a tensor that lies as `like` does."""
    module: Any = sys.modules["torch.distributed.tensor"]
    there = tensor.to(like.device)
    # The copy, because a shard may be a view, which would keep all of the plain tensor in memory.
    return module.distribute_tensor(there, like.device_mesh, like.placements, src_data_rank=None).clone()


def _kind() -> Any:
    """Return DTensor, whose module takes a second to import; who has such a tensor has imported it."""
    return getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)

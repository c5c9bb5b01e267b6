"""A memory of several ranks as that of one process, and back, so that a checkpoint fits any number of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from sharpkit.core.comm import Comm
from sharpkit.core.task import Batch, joined, map_tensors, portion


def gathered(state: dict[str, Any], comm: Comm, *, apart: bool) -> dict[str, Any]:
    """Return the memory of all ranks as that of one process, from the state dict of each.

    Args:
        state: This rank's.
        comm: The ranks.
        apart: Whether every rank has shards of its own; else all remember the same, but for batches, of which each has
            its part.
    """
    if comm.size == 1:
        return state
    if apart:
        everywhere = comm.objects({k: v for k, v in map_tensors(_to_cpu, state).items() if not k.startswith("all/")})
        return state | {key: value for each in everywhere for key, value in each.items()}
    batches = {key: value for key, value in state.items() if _is_batch(value)}
    everywhere = comm.objects(map_tensors(_to_cpu, batches))
    return state | {key: {"of_ranks": [each[key] for each in everywhere]} for key in batches}


def scattered(state: dict[str, Any], comm: Comm, *, apart: bool, shards: int) -> dict[str, Any]:
    """Return this rank's memory from that of all ranks, however many there were.

    As many ranks as there were go on with the very batches that each had; others share them out anew.

    Args:
        state: What `gathered` returned.
        comm: The ranks.
        apart: Whether every rank has shards of its own.
        shards: That a rank cuts its part of a batch into, or all of them the whole batch.
    """
    if apart:
        own = {f"{comm.rank * shards + i}/" for i in range(shards)} | {"all/"}
        return {key: value for key, value in state.items() if key[: key.index("/") + 1] in own}
    return {k: _own_part(v, comm, shards) if _is_batch(v) or _is_spread(v) else v for k, v in state.items()}


def _own_part(stored: dict[str, Any], comm: Comm, shards: int) -> dict[str, Any]:
    packed: list[dict[str, Any]] = stored["of_ranks"] if _is_spread(stored) else [stored]
    if len(packed) == comm.size:
        return packed[comm.rank]
    parts = [Batch.unpack(each) for each in packed]
    whole = joined(parts)
    if comm.size == 1:
        return replace(whole, parts=None, randomness=parts[0].randomness).pack()
    rows, sizes = portion(whole.size, comm.rank, comm.size, shards)
    return replace(whole.select(rows, sizes), whole=parts[0].whole, randomness=parts[0].randomness).pack()


def _is_batch(value: Any) -> bool:
    return isinstance(value, dict) and {"inputs", "targets"} <= value.keys()


def _is_spread(value: Any) -> bool:
    return isinstance(value, dict) and "of_ranks" in value


def _to_cpu(t: torch.Tensor) -> torch.Tensor:
    return t.cpu()

"""Whether the processes of a run still hold the same weights and remember the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sharpkit.core.comm import Comm
from sharpkit.core.task import tensors
from sharpkit.errors import ReplicaError

_ROW = 1024
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def check_alike(comm: Comm, pair: Comm, everywhere: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Compare checksums of what all ranks should hold bit for bit; the ranks are numbered as `Ranks.pairs` does.

    Args:
        comm: The ranks that compute the same gradient as this one, on parts of the batch.
        pair: This rank and the one with the same samples.
        everywhere: Plain values with tensors, by name, that are the same on all ranks.
        here: The same on both ranks of a pair.

    Raises:
        ReplicaError: If they are not; it names the first rank and value that differ.
    """
    if comm.size * pair.size == 1:
        return
    mine = _checksums(everywhere), _checksums(here)
    rows = comm.objects(pair.objects(mine))
    first = rows[0][0][0]
    for n, row in enumerate(rows):
        for role, (shared, own) in enumerate(row):
            differing = _differing(shared, first) or _differing(own, row[0][1])
            if differing is not None:
                against = 0 if _differing(shared, first) is not None else n * pair.size
                raise ReplicaError(
                    f"rank {n * pair.size + role} no longer agrees with rank {against}: {differing}",
                    "go on from the last checkpoint; if it comes back, look at that rank's device and libraries",
                )


def checksum(tensor: Tensor) -> int:
    """Return a number that changes with a tensor's bits and, but for entries 1024 apart, their places.

    With the bits of each entry read as an integer b, it is sum_i (2 (i mod 1024) + 1) b_i mod 2^64.
    """
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    if plain.is_complex():
        plain = torch.view_as_real(plain).reshape(-1)
    bits = plain.view(_INTEGERS[plain.element_size()])
    whole = len(bits) - len(bits) % _ROW
    weights = 2 * torch.arange(_ROW, device=bits.device) + 1
    columns = bits[:whole].view(-1, _ROW).sum(0, dtype=torch.int64)
    rest = bits[whole:].to(torch.int64)
    return int((columns * weights).sum() + (rest * weights[: len(rest)]).sum())


def _checksums(values: Mapping[str, Any]) -> dict[str, int]:
    return {name: sum(checksum(t) for t in tensors(value)) for name, value in values.items()}


def _differing(a: Mapping[str, int], b: Mapping[str, int]) -> str | None:
    return next((name for name in dict.fromkeys([*b, *a]) if a.get(name) != b.get(name)), None)

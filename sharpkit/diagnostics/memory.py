"""How much memory there is, and how much a graph of autograd holds."""

from __future__ import annotations

import os
import platform
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sharpkit.core.comm import ALONE, Comm

_FALLBACK = 4 * 2**30
_CGROUP = Path("/sys/fs/cgroup")


def available(device: torch.device, comm: Comm = ALONE) -> int:
    """Return the bytes that are free on a device, within the limits of a container; this rank's part of them."""
    if comm.size > 1:
        places = comm.objects((platform.node(), _name(device)))
        return available(device) // places.count(places[comm.rank])
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = _FALLBACK
    if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:  # the kernel gives back caches, which the number of free pages does not count
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
        limit = (_CGROUP / "memory.max").read_text(encoding="ascii").strip()
        if limit != "max":
            free = min(free, int(limit) - int((_CGROUP / "memory.current").read_text(encoding="ascii")))
    except (OSError, StopIteration, ValueError):
        pass
    return max(free, 0)


def _name(device: torch.device) -> str:
    if device.type != "cuda":
        return device.type
    cuda: Any = torch.cuda  # whose annotations lack it
    return str(cuda.get_device_properties(device).uuid)


class Held:
    """The bytes of the tensors that autograd has saved so far, each memory block once."""

    def __init__(self, known: Sequence[Tensor]) -> None:
        self._seen = {t.untyped_storage().data_ptr() for t in known}
        self._kept: list[Tensor] = []  # so that no block is freed and its address counted as seen
        self.bytes = 0

    def note(self, tensor: Tensor) -> Tensor:
        """Count a tensor and hand it on."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self._kept.append(tensor.detach())
            self.bytes += storage.nbytes()
        return tensor


@contextmanager
def counted(known: Sequence[Tensor]) -> Generator[Held]:
    """Count what the graphs built in this context hold, but for tensors that are there anyway."""
    held = Held(known)
    with torch.autograd.graph.saved_tensors_hooks(held.note, _same):
        yield held


def _same(tensor: Tensor) -> Tensor:
    return tensor

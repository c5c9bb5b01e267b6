"""The processes of a run: how this one joins and leaves them, and tells when one is lost."""

from __future__ import annotations

import os
import signal
import threading
import time
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous  # pyright: ignore[reportUnknownVariableType]

from sharpkit.core.comm import ALONE, Comm, Ranks
from sharpkit.engine.runtime import pick_device
from sharpkit.engine.world import TIMEOUT, complete, world
from sharpkit.errors import InputError, RankError, UsageError, one_line

_ANSWER = 3.0  # seconds in which the others tell that they are there, or why they are not

_LOOK, _PATIENCE = 1.0, 60.0
"""Seconds between two looks at who started this process, and until it ends once that one is gone."""

_dist: Any = dist  # its functions are annotated in part, and its stores not at all
_meet = cast("Any", rendezvous)

_joined: list[tuple[Ranks, Any]] = []


def join(device: str = "auto", timeout: float = TIMEOUT) -> Comm:
    """Join the other processes, if torchrun or Slurm started several, and return them; a second call returns the same.

    Tensors on the CPU travel by gloo, those on CUDA devices by NCCL.

    Args:
        device: Where this process computes, as the option says.
        timeout: Seconds to wait for another process, at most.

    Raises:
        UsageError: If the environment contradicts itself.
        InputError: If the others cannot be met.
    """
    here = world()
    if here.size == 1:
        return ALONE
    if not _joined:
        complete(os.environ, here)
        chosen = pick_device(device)
        cuda = chosen.type == "cuda"
        if cuda:
            torch.cuda.set_device(chosen)
        limit = timedelta(seconds=timeout)
        # torchrun's store outlives the processes that it starts again, and with it what they told each other.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        try:
            store, rank, size = next(iter(_meet("env://", here.rank, here.size, timeout=limit)))
            store.set_timeout(limit)
            _dist.init_process_group(
                "cpu:gloo,cuda:nccl" if cuda else "gloo",
                store=_dist.PrefixStore(f"group {attempt}", store),
                rank=rank,
                world_size=size,
                timeout=limit,
            )
        except (RuntimeError, ValueError) as error:
            raise InputError(
                f"rank {here.rank} cannot meet the other {here.size - 1} processes: {one_line(error)}",
                "start all of them with torchrun, or set MASTER_ADDR and MASTER_PORT",
            ) from error
        _joined.append((Ranks(), _dist.PrefixStore(f"sharpkit {attempt}", store)))
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    return _joined[0][0]


def _end_with(starter: int) -> None:
    """End this process once whoever started it is gone without a word, as torchrun after `kill -9`.

    First as a signal asks for, so that a run is saved; then in any case.
    """
    while os.getppid() == starter:
        time.sleep(_LOOK)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_PATIENCE)
    os._exit(128 + signal.SIGTERM)


def current() -> Comm:
    """Return the processes that this one has joined, or itself alone."""
    return _joined[0][0] if _joined else ALONE


def roles(wanted: str, *, independent: bool, timeout: float) -> tuple[Comm, Comm]:
    """Return the processes that a batch lies on, and the pair of those that have the same part of it.

    Args:
        wanted: `2` for pairs, each process of which computes one of a step's two independent gradients, `1` for none,
            `auto` for pairs where there is something to compute in them and the number of processes is even.
        independent: Whether a step has two gradients that do not depend on each other.
        timeout: Seconds to wait for another process, at most.

    Raises:
        UsageError: If there is nothing to compute in pairs, or the number of processes is odd.
    """
    comm = current()
    if not isinstance(comm, Ranks) or wanted == "1" or (wanted == "auto" and (comm.size % 2 or not independent)):
        if wanted == "2" and not isinstance(comm, Ranks):
            raise UsageError("sampa-devices is 2, and there is one process", "start two, with torchrun")
        return comm, ALONE
    if not independent:
        raise UsageError("sampa-devices is 2, and the recipe has no independent gradients", "use --opt sampa")
    return comm.pairs(timeout)


def has_joined() -> bool:
    """Return whether there are others."""
    return bool(_joined)


def leave() -> None:
    """Leave the others, at the end of a command that went well."""
    if _joined:
        _joined.clear()
        dist.destroy_process_group()


# ---------------------------------------------------------------------- failures


def told_first(error: BaseException) -> str | None:
    """Return what this process is to print about an error: the line that names the rank, or None if another has.

    What went wrong in one process ends the others too: they lose it in the middle of an exchange. Of all of them the
    first one speaks whose own error it was. If nobody speaks, somebody ended without a word, or hangs: then those that
    are there answer a roll-call, and the first of them says who is not.
    """
    comm, store = _joined[0]
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun sends it at once, and waits half a minute
    try:
        if not isinstance(error, RankError):
            mine = store.compare_set("told", "", str(comm.rank)) == str(comm.rank).encode()
            return f"rank {comm.rank}: " if mine else None
        return _roll_call(comm, store)
    except RuntimeError:  # the store went with the machine or process that kept it
        return f"rank {comm.rank}: "


def _roll_call(comm: Ranks, store: Any) -> str | None:
    store.set(f"here/{comm.rank}", "1")
    end = time.monotonic() + _ANSWER
    while time.monotonic() < end:
        if store.check(["told"]):
            return None
        time.sleep(0.1)
    there = [rank for rank in range(comm.size) if store.check([f"here/{rank}"])]
    if store.compare_set("told", "", str(comm.rank)) != str(comm.rank).encode():
        return None
    gone = ", ".join(str(rank) for rank in range(comm.size) if rank not in there)
    return f"rank {gone} ended or hangs; " if gone else f"rank {comm.rank}: "

"""Several processes of one command: the first one prints, and an error is told once, by the process that it is of."""

from __future__ import annotations

import contextlib
import os
import pathlib
import sys
import time
from typing import Any, TextIO

from typer.exceptions import Abort, TyperException

from sharpkit.engine.world import World, world
from sharpkit.errors import UsageError

_PATIENCE = 5.0

_HINTS = {
    "compare": "start it without torchrun or srun; --jobs says how many runs it trains at once",
    "plot": "start it without torchrun or srun",
    "ls": "start it without torchrun or srun",
}

_kept: list[TextIO] = []


def hush() -> None:
    """Have every process but the first print nothing but its errors."""
    if not world().first:
        _kept.append(sys.stderr)
        sys.stdout = sys.stderr = pathlib.Path(os.devnull).open("w")  # noqa: SIM115


def check_spreads(command: str) -> None:
    """Refuse a command that several processes have nothing to share of.

    Raises:
        UsageError: If there are several.
    """
    size = world().size
    if size > 1 and command in _HINTS:
        raise UsageError(f"{command} was started in {size} processes, it runs in one", _HINTS[command])


def errors() -> TextIO:
    """Return where errors go."""
    return _kept[0] if _kept else sys.stderr


def speaker(error: BaseException) -> str | None:
    """Return what stands before an error's message in this process's line, or None if it is another's to tell it."""
    here = world_or_none()
    if here is None or here.size == 1:
        return ""
    ranks = _ranks()
    if ranks is not None and ranks.has_joined():
        return ranks.told_first(error)
    if isinstance(error, UsageError | TyperException | Abort) or not isinstance(error, Exception):
        if here.first:
            return ""
        time.sleep(_PATIENCE)  # torchrun ends all when one ends, and the first is to speak before
        return None
    return f"rank {here.rank}: "


def leave(code: int) -> None:
    """Leave the other processes, if this one has joined any, and end with the exit code at once.

    The interpreter's own end is passed over: threads of torch.distributed outlive the exchanges, also of who has left,
    and abort the process if they give back a tensor while the interpreter ends. Who failed does not leave, which would
    wait for exchanges that may never end.
    """
    ranks = _ranks()
    if ranks is None or not ranks.has_joined():
        return
    if not code:
        ranks.leave()
    for stream in (sys.stdout, errors()):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _ranks() -> Any:
    """Return the module that joins processes, or None where nothing has needed it, and torch, so far."""
    return sys.modules.get("sharpkit.engine.ranks")


def world_or_none() -> World | None:
    """Return which process this is, or None where the environment contradicts itself, which is told as an error."""
    try:
        return world()
    except UsageError:
        return None

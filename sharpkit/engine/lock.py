"""One process at a time in a run directory. Does not import torch."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from sharpkit.errors import InputError

try:
    import fcntl
except ImportError:  # a system without them, where nobody is kept away
    fcntl = None

NAME = ".lock"
"""The file that says who holds a directory."""

_TEMPORARY = re.compile(r"^\..+\.(\d+)\.tmp$")

_held: dict[tuple[int, int], int] = {}
"""How often this process holds each directory: a lock belongs to an open file, and a second one would block us."""


@contextmanager
def claimed(folder: Path) -> Generator[None]:
    """Keep other processes away from a directory, which is made if it is not there.

    The lock is one of the operating system, which ends with the process however that ends, so none is ever stale. What
    an earlier process left half-written is removed.

    Raises:
        InputError: If another process holds it, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"cannot use the folder {folder}: {error.strerror}", "give another --out") from error
    place = os.fstat(handle).st_dev, os.fstat(handle).st_ino
    try:
        if place not in _held:
            _lock(handle, folder)
            _sign(folder)
            sweep(folder)
        _held[place] = _held.get(place, 0) + 1
        try:
            yield
        finally:
            _held[place] -= 1
            if not _held[place]:
                del _held[place]
                with suppress(OSError):
                    (folder / NAME).unlink()
    finally:
        os.close(handle)


def sweep(folder: Path) -> None:
    """Remove the temporary files of processes that are no more."""
    for path in folder.glob(".*.tmp"):
        found = _TEMPORARY.match(path.name)
        if found is not None and not _alive(int(found[1])):
            with suppress(OSError):
                path.unlink()


def passing(name: str) -> bool:
    """Return whether a file is a lock, or one that was being written."""
    return name == NAME or _TEMPORARY.match(name) is not None


def _lock(handle: int, folder: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"{folder} is in use by {_holder(folder)}", "wait for it, or give another --out") from None
    except OSError:  # a file system without locks
        return


def _sign(folder: Path) -> None:
    words = " ".join(["sharpkit", *sys.argv[1:3]])
    said = {"pid": os.getpid(), "host": socket.gethostname(), "command": words[:200], "since": _now()}
    with suppress(OSError):  # a disk that is full or may not be written to is told where it matters
        (folder / NAME).write_text(json.dumps(said) + "\n", encoding="utf-8")


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _holder(folder: Path) -> str:
    try:
        said: Any = json.loads((folder / NAME).read_text(encoding="utf-8")[:4000])
        return f"process {int(said['pid'])} on {said['host']} ({said['command']}) since {said['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True

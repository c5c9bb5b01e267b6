"""Files that are written whole or not at all. Does not import torch."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from sharpkit.errors import InputError, one_line


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file under a temporary name, flush it to the disk, and rename it.

    Whoever reads the path, at any moment and after a crash, sees the old file or the new one.

    Args:
        path: Where the file ends up.
        write: Called with the open binary file.

    Raises:
        InputError: If the disk is full or the place cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_directory(path.parent)
    except (OSError, RuntimeError) as error:
        reason = _system_reason(error) or one_line(error)
        kept = f"the last good {path.name} is kept; " if path.exists() else ""
        raise InputError(f"cannot write {path}: {reason}", f"{kept}free space there or give another --out") from error
    finally:
        temporary.unlink(missing_ok=True)


def make_place(path: Path) -> None:
    """Make the folder of a file, and see that it can be written to, before what goes there is computed.

    Raises:
        InputError: If not.
    """
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or one_line(error)}", "give another --out") from error


def _system_reason(error: BaseException | None) -> str | None:
    """Return what the operating system said first; torch.save raises its own error on top of a failed write."""
    while error is not None:
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
        error = error.__context__
    return None


def _sync_directory(path: Path) -> None:
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

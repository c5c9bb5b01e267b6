"""One cell of a comparison: brought to its end, from wherever it is."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from sharpkit.commands import train
from sharpkit.engine import checkpoint, seal
from sharpkit.engine.cells import identity
from sharpkit.engine.config import TrainConfig, from_mapping
from sharpkit.engine.fit import Observer
from sharpkit.engine.rundir import RunDir
from sharpkit.engine.trusted_code import names_of
from sharpkit.errors import InputError, SharpkitError


def finish(folder: Path, config: TrainConfig, observer: Observer, tell: Callable[[str], None]) -> None:
    """Train a cell: go on with it where a checkpoint is there, else from the beginning.

    A finished cell is left as it is. One whose files cannot be trusted is emptied and trained anew.

    Args:
        folder: Of this cell alone.
        config: What it is.
        observer: Is told how the run goes.
        tell: Is told why something that was there is not gone on with.

    Raises:
        SharpkitError: As the errors of `sharpkit.errors` say.
    """
    with _claimed(folder):
        if (reason := seal.fault(folder)) is None:
            return
        if seal.sealed(folder):
            tell(f"{folder} {reason}: trained anew")
        elif any(folder.iterdir()):
            if (reason := _hindrance(folder, config)) is None:
                train.resume(folder, observer=observer, requested=names_of(config))
                return
            tell(f"{folder} {reason}: trained anew")
        _empty(folder)
        train.run(config, folder, observer=observer)


def _hindrance(folder: Path, config: TrainConfig) -> str | None:
    """Return why an unfinished run cannot be gone on with, None if it can."""
    try:
        stored = checkpoint.load(RunDir(folder).checkpoint)
        asked = TrainConfig(**from_mapping(stored["asked"], str(folder)))
    except SharpkitError as error:
        return f"is half a run: {error.message}"
    except (KeyError, TypeError, ValueError):
        return "is half a run: its checkpoint is not complete"
    return None if identity(asked) == identity(config) else "holds a run of other options"


@contextmanager
def _claimed(folder: Path) -> Generator[None]:
    """Keep other processes away from a cell's folder.

    Raises:
        InputError: If another one works in it, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"cannot use the folder {folder}: {error.strerror}", "give another --out") from error
    try:
        _lock(handle, folder)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"another process is training {folder}", "wait for it, then call again") from None
    except OSError:  # a file system without locks
        return


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()

"""One cell of a comparison: brought to its end, from wherever it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sharpkit.commands import train
from sharpkit.engine import checkpoint, lock, replacing, seal
from sharpkit.engine.cells import identity
from sharpkit.engine.config import TrainConfig, from_mapping
from sharpkit.engine.observer import Observer
from sharpkit.engine.rundir import RunDir
from sharpkit.engine.trusted_code import names_of
from sharpkit.errors import SharpkitError


def finish(folder: Path, config: TrainConfig, observer: Observer, tell: Callable[[str], None]) -> None:
    """Train a cell: go on with it where a checkpoint is there, else from the beginning.

    A finished cell is left as it is. Of one whose files cannot be trusted these are removed, and it is trained anew.

    Args:
        folder: Of this cell alone.
        config: What it is.
        observer: Is told how the run goes.
        tell: Is told why something that was there is not gone on with.

    Raises:
        SharpkitError: As the errors of `sharpkit.errors` say.
    """
    with lock.claimed(folder):
        replacing.settle(folder)
        if (reason := seal.fault(folder)) is None:
            return
        if seal.sealed(folder):
            tell(f"{folder} {reason}: trained anew")
        elif not replacing.is_empty(folder):
            if (reason := _hindrance(folder, config)) is None:
                train.resume(folder, observer=observer, requested=names_of(config))
                return
            tell(f"{folder} {reason}: trained anew")
        replacing.clear(folder)
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

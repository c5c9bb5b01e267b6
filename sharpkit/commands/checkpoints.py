"""The checkpoints that a command measures: loaded one after the other; where files beside them go."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from sharpkit.commands.checkpoint_config import CheckpointConfig
from sharpkit.commands.ownership import check_replaceable
from sharpkit.engine import checkpoint
from sharpkit.engine.agreement import everywhere, stopped
from sharpkit.engine.runtime import StopRequest
from sharpkit.engine.trained import Trained, load
from sharpkit.errors import RankError, SharpkitError, UsageError


class Observer(Protocol):
    """Is told which checkpoint it is, and what a person would like to know."""

    def begin(self, name: str, number: int, count: int) -> None:
        """Tell that a checkpoint is begun."""
        ...

    def note(self, text: str) -> None:
        """Tell something else."""
        ...


class Quiet:
    """An observer that ignores everything."""

    def begin(self, name: str, number: int, count: int) -> None:
        """Ignore."""

    def note(self, text: str) -> None:
        """Ignore."""


def check_arguments(checkpoints: Sequence[str], out: Path | None, suffixes: Sequence[str]) -> None:
    """Refuse an empty list of checkpoints, and an output file of an ending that is not known.

    Raises:
        UsageError: If so.
        InputError: If a file of somebody else's is in the way.
    """
    if not checkpoints:
        raise UsageError("no checkpoint is given, at least one is needed", "give a ckpt.pt or a run directory")
    if out is not None and out.suffix not in suffixes:
        raise UsageError(f"--out is {out}, allowed endings are {', '.join(suffixes)}", "give another name")
    if out is not None:
        check_replaceable([out] if out.suffix == ".csv" else dict.fromkeys([out, out.with_suffix(".npz")]))


def loaded(
    checkpoints: Sequence[str],
    config: CheckpointConfig,
    failed: dict[str, SharpkitError],
    stop: StopRequest,
    told: Observer,
) -> Iterator[tuple[str, Trained]]:
    """Yield every checkpoint by the name that was given, once, until a signal stops it.

    Args:
        checkpoints: Files or run directories.
        config: Which samples, where, and what a foreign checkpoint does not say.
        failed: Gets what is wrong with those that cannot be loaded.
        stop: May stop it.
        told: Is told how it goes.
    """
    names = list(dict.fromkeys(checkpoints))
    for number, name in enumerate(names, 1):
        if stopped(stop):
            return
        told.begin(name, number, len(names))
        try:
            trained = everywhere(partial(_loaded, name, config))
        except SharpkitError as error:
            record(name, error, failed, told, alone=len(names) == 1)
        else:
            if config.count is not None and len(trained.samples) < config.count:
                told.note(f"{name}: {len(trained.samples)} samples, which are all that there are")
            yield name, trained


def record(name: str, error: SharpkitError, failed: dict[str, SharpkitError], told: Observer, *, alone: bool) -> None:
    """Note what is wrong with a checkpoint, to go on with the next; that of a single one is the command's error.

    Raises:
        RankError: If that is what it is: nothing goes on then.
    """
    if isinstance(error, RankError):
        raise error
    failed[name] = error
    if not alone:
        told.note(f"{name}: {error.message}")


def _loaded(name: str, config: CheckpointConfig) -> Trained:
    return load(
        Path(name),
        part=config.split,
        count=config.count,
        seed=config.seed,
        device=config.device,
        data=config.data,
        data_dir=config.data_dir,
        model=config.model,
        trust_code=config.trust_code,
    )


def planned(checkpoints: Sequence[str], config: CheckpointConfig) -> list[dict[str, Any]]:
    """Return what would be measured, of every checkpoint, after loading it.

    Raises:
        SharpkitError: Of the first one that cannot be loaded.
    """
    failed: dict[str, SharpkitError] = {}
    rows = [
        {
            "ckpt": name,
            "data": trained.config.data,
            "model": trained.config.model,
            "opt": trained.config.opt,
            "split": config.split,
            "samples": len(trained.samples),
            "parameters": sum(p.numel() for p in trained.model.parameters()),
            "device": str(trained.device),
        }
        for name, trained in loaded(checkpoints, config, failed, StopRequest(), Quiet())
    ]
    for error in failed.values():
        raise error
    return rows


def beside(name: str, ending: str) -> Path:
    """Return where the results of a checkpoint go: ckpt-ENDING beside ckpt.pt."""
    file = checkpoint.located(Path(name))
    return file.with_name(f"{file.stem}-{ending}")


def beside_all(names: Sequence[str], ending: str) -> Path:
    """Return where a file for several checkpoints goes: in their common folder; of a single one beside it."""
    if len(names) == 1:
        return beside(names[0], ending)
    return Path(os.path.commonpath([str(beside(name, ending).parent.resolve()) for name in names])) / ending


def stopped_by(number: int) -> str:
    """Return the name of a signal."""
    return signal.Signals(number).name

"""Going on with a run: finding it, checking that it is the one that is meant, and restoring it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sharpkit.engine import checkpoint, trusted_code
from sharpkit.engine.agreement import on_first
from sharpkit.engine.config import MAY_DIFFER, TrainConfig, from_mapping, to_mapping, with_radius
from sharpkit.engine.fit import Fit
from sharpkit.engine.observer import Observer
from sharpkit.engine.rundir import RunDir
from sharpkit.engine.session import build
from sharpkit.errors import InputError, SharpkitError, UsageError, one_line
from sharpkit.recipes.grammar import parse


def resumed(
    path: Path,
    given: Mapping[str, Any],
    observer: Observer,
    *,
    requested: Collection[str] = (),
    trust_code: bool = False,
) -> Fit:
    """Return a run at the position of its checkpoint.

    Args:
        path: The run directory or a checkpoint in it.
        given: Options given again; those of the machine may differ from the run's, others must be the same.
        observer: Is told how it goes.
        requested: Names of user-supplied code that the user gave, beside those in `given`.
        trust_code: Whether all code that the checkpoint names may run, see `sharpkit.engine.trusted_code`.

    Raises:
        InputError: If there is no checkpoint, or it is damaged, or made from other data, or names code that the user
            has not permitted.
        UsageError: If an option contradicts the run.
    """
    content = on_first(lambda: checkpoint.load(checkpoint.located(path)))
    try:
        config = TrainConfig(**from_mapping(content["config"], str(path)))
        asked = TrainConfig(**from_mapping(content["asked"], str(path)))
        _check_same(config, given)
        names = [*requested, *(given.get(name) for name in trusted_code.OPTIONS)]
        with trusted_code.named_by(checkpoint.located(path), names, trust=trust_code):
            session = build(replace(config, **{key: given[key] for key in MAY_DIFFER if key in given}), asked=asked)
        folder = on_first(lambda: path if path.is_dir() else path.parent)
        fit = Fit(session, RunDir(folder, writes=session.comm.rank == 0), observer)
        fit.restore(content)
    except SharpkitError:
        raise
    except Exception as error:  # a field is missing, or is not what this version writes
        raise InputError(
            f"{path} is no complete checkpoint: {type(error).__name__}: {one_line(error)}", "start a new run"
        ) from error
    return fit


def find(config: TrainConfig, asked: TrainConfig, folders: list[Path], observer: Observer) -> Path | None:
    """Return the newest of some run directories that holds a run of exactly this configuration, finished or not.

    Args:
        config: With every choice made.
        asked: As it was given; what a measurement chose for it may have been chosen otherwise for the run.
        folders: Where to look; what cannot be read is passed over and told.
        observer: Is told.
    """
    free = {*MAY_DIFFER, *(["channels_last"] if asked.channels_last == "auto" else [])} - {"device"}
    wanted = _without(free, to_mapping(config))
    for folder in sorted((f for f in folders if RunDir(f).checkpoint.is_file()), key=_age, reverse=True):
        try:
            stored: Any = checkpoint.load(RunDir(folder).checkpoint).get("config")
        except InputError as error:
            observer.note(f"passed over: {error.message}")
            continue
        if isinstance(stored, Mapping) and _without(free, dict(stored)) == wanted:  # pyright: ignore[reportUnknownArgumentType]
            return folder
    return None


def _check_same(config: TrainConfig, given: Mapping[str, Any]) -> None:
    """Refuse options that would make the resumed run another one."""
    stored = to_mapping(config)
    stored["rho"] = _radius(config.opt)
    for key, value in given.items():
        if key == "opt":
            same = parse(with_radius(value, given.get("rho"))).text == config.opt
        else:
            same = key in MAY_DIFFER or value in (stored.get(key), "auto")
        if not same:
            raise UsageError(
                f"--{key.replace('_', '-')} is {value}, the run was started with {stored.get(key)}",
                "leave it out: --resume goes on with the run as it is",
            )


def _radius(canonical: str) -> float | None:
    """Return the radius that a recipe's full text gives, if it has one."""
    given = re.search(r":rho=([^:]+)", canonical)
    return None if given is None else float(given[1])


def _without(names: set[str], values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in names}


def _age(folder: Path) -> float:
    return folder.stat().st_mtime

"""`--budget`: how many epochs give every recipe the same work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sharpkit.commands.pool import Pool, Watcher
from sharpkit.commands.study import Study
from sharpkit.engine import seal
from sharpkit.engine.cells import Cell
from sharpkit.engine.config import with_radius
from sharpkit.engine.nominal import sequential_cost
from sharpkit.engine.rundir import RunDir
from sharpkit.engine.runtime import StopRequest
from sharpkit.errors import InputError, InterruptedRunError
from sharpkit.recipes.grid import named
from sharpkit.statistics.comparison import Settings

_PILOTS = ".pilots"
_PILOT_EPOCHS = 2  # the first one pays for what is done once


def pilots(study: Study) -> list[Cell]:
    """Return the short runs that a budget in seconds still needs, one for each recipe and setting."""
    if study.config.budget != "seconds":
        return []
    return [cell for cell in _pilots(study).values() if seal.fault(study.folder / _PILOTS / cell.name) is not None]


def time_pilots(study: Study, cells: Sequence[Cell], watcher: Watcher) -> None:
    """Run pilots, one at a time, so that none slows another.

    Raises:
        InputError: If one fails.
        InterruptedRunError: If a signal stops them.
    """
    folder = study.folder / _PILOTS
    folder.mkdir(parents=True, exist_ok=True)
    with StopRequest() as stop:
        failed = Pool(1, folder, watcher, study.threads).run(cells, stop)
    if stop.signal_number:
        raise InterruptedRunError("stopped while it timed the recipes", "call again", stop.signal_number)
    if failed:
        name, failure = next(iter(failed.items()))
        raise InputError(f"the pilot {name} failed: {failure.message}", "a budget in seconds needs all of them")


def settled(study: Study) -> Study:
    """Return a study in which every cell has the epochs of its budget.

    grads: as many as have the gradients in sequence of --epochs of a recipe that takes two a step. seconds: as many as
    take the time of --epochs of the baseline with the same settings, by the pilots.
    """
    if study.config.budget == "grads":
        return replace(study, cells=[_with_epochs(cell, 2 / _nominal(cell)) for cell in study.cells])
    if study.config.budget == "seconds":
        times = {place: _seconds(study.folder / _PILOTS / pilot.name) for place, pilot in _pilots(study).items()}
        factors = _factors(times, study.config.baseline)
        return replace(study, cells=[_with_epochs(cell, factors[cell.label, cell.settings]) for cell in study.cells])
    return study


def _factors(times: Mapping[tuple[str, Settings], float], baseline: str | None) -> dict[tuple[str, Settings], float]:
    labels = list(dict.fromkeys(label for label, _ in times))
    base = labels[0] if baseline is None else named(baseline, labels) or labels[0]
    return {(label, place): times[base, place] / seconds for (label, place), seconds in times.items()}


def _pilots(study: Study) -> dict[tuple[str, Settings], Cell]:
    first: dict[tuple[str, Settings], Cell] = {}
    for cell in study.cells:
        first.setdefault((cell.label, cell.settings), cell)
    return {
        place: replace(cell, config=replace(cell.config, epochs=_PILOT_EPOCHS, warmup_epochs=0.0, probe=None))
        for place, cell in first.items()
    }


def _seconds(folder: Path) -> float:
    """Return the time of a pilot's last epoch."""
    *_, before, last = (record["seconds"] for record in RunDir(folder).records() if record.get("kind") == "epoch")
    return float(last) - float(before)


def _nominal(cell: Cell) -> float:
    return sequential_cost(with_radius(cell.config.opt, cell.config.rho))


def _with_epochs(cell: Cell, factor: float) -> Cell:
    return replace(cell, config=replace(cell.config, epochs=max(1, round(cell.config.epochs * factor))))

"""`sharpkit compare`: recipes x settings x seeds, with statistics and cost."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sharpkit.commands.compare_result import CompareResult
from sharpkit.commands.compare_runs import result_of
from sharpkit.commands.origins import as_run
from sharpkit.commands.pool import Failure, Pool, Watcher
from sharpkit.commands.study import Study, Survey, check_data_and_models
from sharpkit.engine import seal
from sharpkit.engine.cells import Cell
from sharpkit.engine.runs import Run
from sharpkit.engine.runtime import StopRequest
from sharpkit.errors import AllFailedError, DivergedError
from sharpkit.statistics.comparison import Lost


def run(study: Study, survey: Survey, watcher: Watcher) -> CompareResult:
    """Train what is not there yet, and compare.

    Raises:
        UsageError: If a model or a data set is not known.
        InputError: If a model or a data set cannot be had.
        AllFailedError: If all runs fail alike; it has the code of their failure.
    """
    start, failed = time.perf_counter(), dict[str, Failure]()
    check_data_and_models(survey.left)
    study.folder.mkdir(parents=True, exist_ok=True)
    pool = Pool(study.jobs, study.folder, watcher, study.threads, study.config.wanted_sharpness)
    with StopRequest() as stop:
        if survey.left:
            failed = pool.run(survey.left, stop)
    left = {cell.name for cell in survey.left}
    done = [c for c in study.cells if c.name not in left or seal.fault(study.folder / c.name) is None]
    if not done and not stop.signal_number:
        _raise_common(study.cells, failed)
    missing = {cell.name for cell in study.cells} - {cell.name for cell in done} - failed.keys()
    finished = {cell.name for cell in done}
    runs = [_as_run(cell, study.folder / cell.name, _lost(cell.name, finished, failed)) for cell in study.cells]
    notes = [
        *study.notes,
        *survey.notes,
        *(text for text in pool.told if text not in survey.notes),
        *_epochs_told(study),
    ]
    args, seconds = study.args, time.perf_counter() - start
    result = result_of(runs, study.config, args, notes, seconds, study.device)
    return replace(
        result,
        failed=failed,
        missing=len(missing),
        signal_number=int(stop.signal_number),
        printed=study.printed,
        origins=as_run(study.origins, study.cells),
    )


def _raise_common(cells: Sequence[Cell], failed: Mapping[str, Failure]) -> None:
    """Raise what all cells failed of, if it is the same."""
    failures = list(failed.values())
    if len(failures) < len(cells) or len({(f.code, f.exit_code) for f in failures}) > 1 or failures[0].exit_code == 5:
        return
    first = failures[0]
    alike = all(failure.message == first.message for failure in failures)
    message = first.message if alike else f"all {len(failures)} runs failed, the first one: {first.message}"
    raise AllFailedError(message, first.hint, first.code, first.exit_code)


def _lost(name: str, finished: set[str], failed: Mapping[str, Failure]) -> Lost | None:
    """Return why a cell has no result, None where it has one."""
    if name in finished:
        return None
    if name not in failed:
        return "missing"
    return "diverged" if failed[name].code == DivergedError.code else "failed"


def _as_run(cell: Cell, folder: Path, lost: Lost | None) -> Run:
    summary = {} if lost else seal.summary_of(folder)
    return Run(folder, cell.label, cell.settings, cell.seed, summary, lost)


def _epochs_told(study: Study) -> list[str]:
    """Return how many epochs each recipe has, where a budget decided."""
    if study.config.budget == "epochs":
        return []
    told = dict.fromkeys(f"{cell.label} {cell.config.epochs}" for cell in study.cells)
    return [f"epochs for the same {study.config.budget}: {', '.join(told)}"]

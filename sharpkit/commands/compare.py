"""`sharpkit compare`: recipes x settings x seeds, with statistics and cost."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from sharpkit.commands import final_sharpness
from sharpkit.commands.compare_config import CompareConfig
from sharpkit.commands.compare_metrics import check_known, value_of
from sharpkit.commands.compare_result import CompareResult, cost_of
from sharpkit.commands.pool import Failure, Pool, Watcher
from sharpkit.commands.requirements import check_named, judged
from sharpkit.commands.selection import selected
from sharpkit.commands.study import Study, Survey, check_data_and_models
from sharpkit.engine import rundir, seal
from sharpkit.engine.cells import Cell
from sharpkit.engine.runs import Run, collected
from sharpkit.engine.runtime import StopRequest
from sharpkit.errors import AllFailedError
from sharpkit.recipes.grammar import pieces
from sharpkit.recipes.grid import named
from sharpkit.statistics.comparison import Group, compared


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
    runs = [_as_run(cell, study.folder / cell.name) for cell in done]
    notes = [
        *study.notes,
        *survey.notes,
        *(text for text in pool.told if text not in survey.notes),
        *_epochs_told(study),
    ]
    args, seconds = study.args, time.perf_counter() - start
    result = _result(runs, study.config, args, notes, seconds, study.device)
    return replace(
        result, failed=failed, missing=len(missing), signal_number=int(stop.signal_number), printed=study.printed
    )


def from_runs(paths: Sequence[Path], config: CompareConfig) -> CompareResult:
    """Compare runs that are there.

    Raises:
        InputError: If there is none.
        UsageError: If the baseline, a requirement or a metric names none of theirs.
    """
    start, notes = time.perf_counter(), list[str]()
    runs = collected(paths, notes)
    check_named(config, [run.label for run in runs])
    check_known(config.metrics, [_said(run) for run in runs])
    devices = {str(run.summary.get("device")) for run in runs}
    args = {"from": [str(path) for path in paths], **asdict(config)}
    device = devices.pop() if len(devices) == 1 else "several"
    return _result(runs, config, args, notes, time.perf_counter() - start, device)


def _raise_common(cells: Sequence[Cell], failed: Mapping[str, Failure]) -> None:
    """Raise what all cells failed of, if it is the same."""
    failures = list(failed.values())
    if len(failures) < len(cells) or len({(f.code, f.exit_code) for f in failures}) > 1 or failures[0].exit_code == 5:
        return
    first = failures[0]
    alike = all(failure.message == first.message for failure in failures)
    message = first.message if alike else f"all {len(failures)} runs failed, the first one: {first.message}"
    raise AllFailedError(message, first.hint, first.code, first.exit_code)


def _as_run(cell: Cell, folder: Path) -> Run:
    return Run(folder, cell.label, cell.settings, cell.seed, seal.summary_of(folder))


def _epochs_told(study: Study) -> list[str]:
    """Return how many epochs each recipe has, where a budget decided."""
    if study.config.budget == "epochs":
        return []
    told = dict.fromkeys(f"{cell.label} {cell.config.epochs}" for cell in study.cells)
    return [f"epochs for the same {study.config.budget}: {', '.join(told)}"]


def _result(
    runs: Sequence[Run],
    config: CompareConfig,
    args: dict[str, Any],
    notes: list[str],
    seconds: float,
    device: str,
) -> CompareResult:
    groups = _groups(runs, config)
    if config.select == "val":
        groups, told = selected(groups)
        notes += told
    rows = compared(
        groups,
        _baseline(config.baseline, [group.label for group in groups]),
        config.metrics[0],
        test=config.test,
        correction=config.correct,
        level=config.ci,
    )
    return CompareResult(
        rows=rows,
        runs=list(runs),
        metrics=config.metrics,
        config=config,
        failed={},
        missing=0,
        verdicts=judged(config, groups),
        notes=notes,
        files=[],
        signal_number=0,
        args=args,
        env={**rundir.environment(torch.device("cpu")), "device": device},
        cost=cost_of([run.summary for run in runs], seconds),
        printed={},
    )


def _groups(runs: Sequence[Run], config: CompareConfig) -> list[Group]:
    """Return the runs of each recipe and setting, with every metric that they have."""
    summaries: dict[tuple[str, Any], dict[int, Mapping[str, Any]]] = {}
    for one in runs:
        summaries.setdefault((one.label, one.settings), {})[one.seed] = _said(one)
    names: list[str] = list(dict.fromkeys([*config.metrics, *(["val_acc"] if config.select == "val" else [])]))
    groups: list[Group] = []
    for (label, settings), by_seed in summaries.items():
        read = {name: {seed: value_of(name, one) for seed, one in by_seed.items()} for name in names}
        values = {name: {s: v for s, v in of.items() if v is not None} for name, of in read.items()}
        groups.append(Group(label, settings, values))
    return groups


def _said(run: Run) -> dict[str, Any]:
    """Return what a run said at its end, with the sharpness of its minimum."""
    return {**run.summary, "sharpness": final_sharpness.read(run.folder)}


def _baseline(asked: str | None, labels: Sequence[str]) -> str:
    """Return the label of the baseline; of a grid of which one value was chosen, that one."""
    if not labels or asked is None:
        return labels[0] if labels else ""
    labels = list(dict.fromkeys(labels))
    of_recipe = (label for label in labels if pieces(label)[0] == pieces(asked)[0])
    return named(asked, labels) or next(of_recipe, "")

"""`sharpkit compare`: recipes x settings x seeds, with statistics and cost."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sharpkit.commands.compare_config import CompareConfig
from sharpkit.commands.compare_metrics import check_known, metric_of, read_sharpness, value_of
from sharpkit.commands.pool import Failure, Pool, Watcher
from sharpkit.commands.requirements import Verdict, judged
from sharpkit.commands.selection import selected
from sharpkit.engine import rundir, runtime, seal
from sharpkit.engine.cells import Cell, grid, seeds_of
from sharpkit.engine.config import TrainConfig, with_radius
from sharpkit.engine.documents import document
from sharpkit.engine.nominal import sequential_cost
from sharpkit.engine.runs import collected
from sharpkit.engine.runtime import StopRequest
from sharpkit.errors import UsageError
from sharpkit.recipes.grammar import parse
from sharpkit.statistics.comparison import Group, Row, compared, sentence

ROOT = Path("runs/compare")


@dataclass(frozen=True)
class CompareResult:
    """A comparison.

    Args:
        rows: In the order of the table.
        metrics: Names of the columns; the first is tested.
        config: How it was made.
        failed: Why cells have no result, by name.
        missing: Cells that were not run, because it was stopped.
        verdicts: What became of the requirements.
        notes: What a reader must know: what was passed over, how values were chosen.
        files: What was written.
        signal_number: The signal that stopped it, 0 for none.
        args: Recipes, options and configuration.
        env: Versions and device.
        cost: Of all cells in the table, and the seconds of this call.
    """

    rows: list[Row]
    metrics: list[str]
    config: CompareConfig
    failed: dict[str, Failure]
    missing: int
    verdicts: list[Verdict]
    notes: list[str]
    files: list[str]
    signal_number: int
    args: dict[str, Any]
    env: dict[str, Any]
    cost: dict[str, float]

    @property
    def exit_code(self) -> int:
        """0, 5 where cells failed, 6 where a requirement is not met, 128 plus the number of a signal."""
        if self.signal_number:
            return 128 + self.signal_number
        if self.failed:
            return 5
        return 0 if all(verdict.met for verdict in self.verdicts) else 6

    @property
    def unit(self) -> str:
        """Of the metric that is tested."""
        return metric_of(self.metrics[0]).unit

    def sentence(self, row: Row) -> str:
        """Return what a row says, in plain words."""
        return sentence(row, self.unit, corrected=self.config.correct != "none")

    def document(self) -> dict[str, Any]:
        """Return the JSON document of the command."""
        body = {
            "args": self.args,
            "seed": None,
            "device": self.env.get("device"),
            "metrics": self.metrics,
            "rows": [self._row(row) for row in self.rows],
            "requirements": [asdict(verdict) for verdict in self.verdicts],
            "failed": [{"cell": name, **asdict(failure)} for name, failure in self.failed.items()],
            "missing": self.missing,
            "env": self.env,
            "cost": self.cost,
            "files": self.files,
            "warnings": self.notes,
        }
        return document("compare", body, ok=self.exit_code == 0)

    def _row(self, row: Row) -> dict[str, Any]:
        found = None if row.difference is None else asdict(row.difference)
        return {
            "opt": row.group.label,
            "settings": dict(row.group.settings),
            "n": row.n,
            "baseline": row.baseline,
            "metrics": {
                name: {"mean": row.means[name], "std": row.stds[name], "values": _by_seed(row.group.values[name])}
                for name in self.metrics
                if name in row.means
            },
            "difference": found,
            "p_adjusted": row.p_adjusted,
            "sentence": self.sentence(row),
            "note": row.group.note,
        }


def _by_seed(values: Mapping[int, float]) -> dict[str, float]:
    return {str(seed): value for seed, value in values.items()}


@dataclass(frozen=True)
class Study:
    """What a comparison is going to run.

    Args:
        cells: All runs.
        config: How they are compared.
        folder: Where they lie.
        jobs: Processes.
        threads: Of each process, where that was not given.
        args: Recipes and options, as they were given.
    """

    cells: list[Cell]
    config: CompareConfig
    folder: Path
    jobs: int
    threads: int | None
    args: dict[str, Any]

    def unfinished(self, notes: list[str]) -> list[Cell]:
        """Return the cells that are not there yet; those that are there and cannot be trusted are told."""
        found: list[Cell] = []
        for cell in self.cells:
            folder = self.folder / cell.name
            reason = seal.fault(folder)
            if reason is None and self.config.wanted_sharpness and not read_sharpness(folder):
                reason = "has no sharpness yet"
            elif reason is not None and seal.sealed(folder):
                notes.append(f"{folder} {reason}: run again")
            if reason is not None:
                found.append(cell)
        return found


def planned(opts: Sequence[str], given: Mapping[str, Any], config: CompareConfig, out: Path | None = None) -> Study:
    """Return the runs of a comparison, after all checks that need no run.

    Args:
        opts: Recipe strings, with lists of values.
        given: Options of training; text with commas is a list of values.
        config: How it is compared.
        out: The folder of the runs.

    Raises:
        UsageError: If something is not allowed.
    """
    if not opts:
        raise UsageError("no optimizer is given, at least one is needed", "write for example compare sgd sam")
    for name in config.metrics:
        metric_of(name)
    cells = grid(opts, given, seeds_of(config.seeds))
    for cell in cells:
        parse(with_radius(cell.config.opt, cell.config.rho))
    labels = list(dict.fromkeys(cell.label for cell in cells))
    if config.baseline is not None and config.baseline not in labels:
        raise UsageError(f"baseline is {config.baseline!r}, allowed are {', '.join(labels)}", "give one of them")
    if config.budget == "grads":
        cells = [_budgeted(cell) for cell in cells]
    device = runtime.pick_device(str(given.get("device", "auto")))
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = int(config.jobs) if config.jobs != "auto" else cpus if device.type == "cpu" else 1
    jobs = min(jobs, len(cells))
    threads = None
    if given.get("threads", "auto") == "auto":  # measured anew in every run it could be another number
        threads = max(1, cpus // jobs) if config.jobs != "auto" or device.type != "cpu" else 1
        cells = [replace(cell, config=replace(cell.config, threads=str(threads))) for cell in cells]
    args = {"opts": list(opts), "options": dict(given), **asdict(config)}
    return Study(cells, config, out or ROOT, jobs, threads, args)


def _budgeted(cell: Cell) -> Cell:
    """Return a cell with as many epochs as give it the gradients of a recipe that takes two a step."""
    cost = sequential_cost(with_radius(cell.config.opt, cell.config.rho))
    return replace(cell, config=replace(cell.config, epochs=max(1, round(cell.config.epochs * 2 / cost))))


def run(study: Study, watcher: Watcher) -> CompareResult:
    """Train what is not there yet, and compare."""
    start, notes = time.perf_counter(), list[str]()
    left = study.unfinished(notes)
    failed: dict[str, Failure] = {}
    study.folder.mkdir(parents=True, exist_ok=True)
    pool = Pool(study.jobs, study.folder, watcher, study.threads, bool(study.config.wanted_sharpness))
    with StopRequest() as stop:
        if left:
            failed = pool.run(left, stop)
    done = [cell for cell in study.cells if seal.fault(study.folder / cell.name) is None]
    missing = len(study.cells) - len(done) - len(failed)
    groups = _groups([(c.label, c.settings, c.seed, study.folder / c.name) for c in done], study.config)
    return _result(
        groups, study.config, failed, missing, notes, int(stop.signal_number), study.args, time.perf_counter() - start
    )


def from_runs(paths: Sequence[Path], config: CompareConfig) -> CompareResult:
    """Compare runs that are there.

    Raises:
        InputError: If there is none.
        UsageError: If the baseline, or a metric, is none of theirs.
    """
    start, notes = time.perf_counter(), list[str]()
    runs = collected(paths, notes)
    groups = _groups([(r.label, r.settings, r.seed, r.folder) for r in runs], config)
    labels = list(dict.fromkeys(group.label for group in groups))
    if config.baseline is not None and config.baseline not in labels:
        raise UsageError(f"baseline is {config.baseline!r}, allowed are {', '.join(labels)}", "give one of them")
    args = {"from": [str(path) for path in paths], **asdict(config)}
    return _result(groups, config, {}, 0, notes, 0, args, time.perf_counter() - start)


def _groups(cells: Sequence[tuple[str, Any, int, Path]], config: CompareConfig) -> list[Group]:
    """Return the runs of each recipe and setting, with every metric that they have."""
    summaries: dict[tuple[str, Any], dict[int, Mapping[str, Any]]] = {}
    for label, settings, seed, folder in cells:
        summary = seal.summary_of(folder)
        summaries.setdefault((label, settings), {})[seed] = {**summary, "sharpness": read_sharpness(folder)}
    check_known(config.metrics, [one for by_seed in summaries.values() for one in by_seed.values()])
    names: list[str] = list(dict.fromkeys([*config.metrics, *(["val_acc"] if config.select == "val" else [])]))
    groups: list[Group] = []
    for (label, settings), by_seed in summaries.items():
        read = {name: {seed: value_of(name, one) for seed, one in by_seed.items()} for name in names}
        values = {name: {s: v for s, v in of.items() if v is not None} for name, of in read.items()}
        groups.append(Group(label, settings, values))
    return groups


def _result(
    groups: list[Group],
    config: CompareConfig,
    failed: dict[str, Failure],
    missing: int,
    notes: list[str],
    signal_number: int,
    args: dict[str, Any],
    seconds: float,
) -> CompareResult:
    if config.select == "val":
        groups, told = selected(groups)
        notes += told
    baseline = config.baseline or (groups[0].label if groups else "")
    rows = compared(groups, baseline, config.metrics[0], test=config.test, correction=config.correct, level=config.ci)
    cost = {"wall_s": round(seconds, 3), "runs": float(sum(row.n for row in rows))}
    for name in ("grads", "grads_seq", "time"):
        column = [value for group in groups for value in group.values.get(name, {}).values()]
        if column:
            cost[f"cells_{name}"] = math.fsum(column)
    return CompareResult(
        rows=rows,
        metrics=config.metrics,
        config=config,
        failed=failed,
        missing=missing,
        verdicts=judged(config.requirements, groups, config),
        notes=notes,
        files=[],
        signal_number=signal_number,
        args=args,
        env=rundir.environment(torch.device("cpu")),
        cost=cost,
    )


def commands(study: Study) -> list[list[str]]:
    """Return the words of one `sharpkit train` a cell, which goes on with the cell where it is there."""
    default = TrainConfig()
    found: list[list[str]] = []
    for cell in study.cells:
        words = ["sharpkit", "train", "--resume", "auto", "--out", str(study.folder / cell.name), "--quiet"]
        for name, value in asdict(cell.config).items():
            if value == getattr(default, name) or value is None:
                continue
            flag = "--" + name.replace("_", "-")
            words += (
                [flag] if value is True else [flag.replace("--", "--no-", 1)] if value is False else [flag, str(value)]
            )
        found.append(words)
    return found

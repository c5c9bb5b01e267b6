"""Runs as a table: grouped, chosen, compared, judged."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from sharpkit.commands import stored_sharpness
from sharpkit.commands.compare_config import CompareConfig
from sharpkit.commands.compare_metrics import check_known, value_of
from sharpkit.commands.compare_result import CompareResult, cost_of
from sharpkit.commands.requirements import check_named, judged
from sharpkit.commands.selection import selected
from sharpkit.engine.environment import environment
from sharpkit.engine.runs import Run, collected
from sharpkit.recipes.grammar import pieces
from sharpkit.recipes.grid import named
from sharpkit.statistics.comparison import Group, Lost, Settings, compared


def from_runs(paths: Sequence[Path], config: CompareConfig) -> CompareResult:
    """Compare runs that are there.

    Raises:
        InputError: If there is none.
        UsageError: If the baseline, a requirement or a metric names none of theirs.
    """
    start, notes = time.perf_counter(), list[str]()
    runs = collected(paths, notes)
    check_named(config, [run.label for run in runs])
    finished = [run for run in runs if run.lost is None]
    check_known(config.metrics, [_said(run) for run in finished])
    devices = {str(run.summary.get("device")) for run in finished}
    args = {"from": [str(path) for path in paths], **asdict(config)}
    device = devices.pop() if len(devices) == 1 else "several"
    return result_of(runs, config, args, notes, time.perf_counter() - start, device)


def result_of(
    runs: Sequence[Run], config: CompareConfig, args: dict[str, Any], notes: list[str], seconds: float, device: str
) -> CompareResult:
    """Return the comparison of runs.

    Args:
        runs: In the order of the table, those without a result too.
        config: How they are compared.
        args: What was asked for.
        notes: What a reader must know; gets how values were chosen.
        seconds: Of this call.
        device: Where they ran.
    """
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
        env={**environment(torch.device("cpu")), "device": device},
        cost=cost_of([run.summary for run in runs if run.lost is None], seconds),
        printed={},
    )


def _groups(runs: Sequence[Run], config: CompareConfig) -> list[Group]:
    """Return the runs of each recipe and setting, with every metric that they have, and the seeds that have none.

    A seed that another recipe has with the same settings is missing where there is no run of it.
    """
    names: list[str] = list(dict.fromkeys([*config.metrics, *(["val_acc"] if config.select == "val" else [])]))
    members: dict[tuple[str, Settings], list[Run]] = {}
    seeds: dict[Settings, set[int]] = {}
    for run in runs:
        members.setdefault((run.label, run.settings), []).append(run)
        seeds.setdefault(run.settings, set()).add(run.seed)
    groups: list[Group] = []
    for (label, settings), of in members.items():
        read = {run.seed: _values(run, names) for run in of if run.lost is None}
        lost: dict[int, Lost] = dict.fromkeys(sorted(seeds[settings] - {run.seed for run in of}), "missing")
        lost |= {run.seed: run.lost for run in of if run.lost is not None}
        for seed, found in read.items():
            tested = found.get(config.metrics[0])
            if tested is None or not math.isfinite(tested):
                lost[seed] = "missing" if tested is None else "diverged"
        values = {
            name: {seed: found[name] for seed, found in read.items() if name in found and math.isfinite(found[name])}
            for name in names
        }
        groups.append(Group(label, settings, values, dict(sorted(lost.items()))))
    return groups


def _values(run: Run, names: Sequence[str]) -> dict[str, float]:
    summary = _said(run)
    read = {name: value_of(name, summary) for name in names}
    return {name: value for name, value in read.items() if value is not None}


def _said(run: Run) -> dict[str, Any]:
    """Return what a run said at its end, with the sharpness of its minimum."""
    return {**run.summary, "sharpness": stored_sharpness.read(run.folder)}


def _baseline(asked: str | None, labels: Sequence[str]) -> str:
    """Return the label of the baseline; of a grid of which one value was chosen, that one."""
    if not labels or asked is None:
        return labels[0] if labels else ""
    labels = list(dict.fromkeys(labels))
    of_recipe = (label for label in labels if pieces(label)[0] == pieces(asked)[0])
    return named(asked, labels) or next(of_recipe, "")

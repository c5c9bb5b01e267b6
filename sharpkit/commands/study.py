"""What a comparison is going to run: its cells, checked before any of them begins, and how far they are."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sharpkit.commands import stored_sharpness
from sharpkit.commands.compare_config import CompareConfig
from sharpkit.commands.compare_metrics import check_measured
from sharpkit.commands.compare_result import Printed
from sharpkit.commands.origins import Origins
from sharpkit.commands.requirements import check_named
from sharpkit.engine import runtime, seal
from sharpkit.engine.cells import Cell, grid, seeds_of
from sharpkit.engine.config import TrainConfig, with_radius
from sharpkit.engine.provenance import Setting
from sharpkit.engine.published_tables import Entry
from sharpkit.engine.session import check_parts
from sharpkit.errors import UsageError
from sharpkit.recipes.grammar import parse
from sharpkit.statistics.comparison import Settings

ROOT = Path("runs/compare")


@dataclass(frozen=True)
class Study:
    """What a comparison is going to run.

    Args:
        cells: All runs.
        config: How they are compared.
        folder: Where they lie.
        jobs: Processes.
        threads: Of each process, where that was not given.
        device: Where they run.
        args: Recipes and options, as they were given.
        notes: What a reader must know.
        printed: What a paper says, by recipe, setting and metric.
        origins: Who says the settings of a reproduction, by recipe and setting.
    """

    cells: list[Cell]
    config: CompareConfig
    folder: Path
    jobs: int
    threads: int | None
    device: str
    args: dict[str, Any]
    notes: list[str] = field(default_factory=list[str])
    printed: Printed = field(default_factory=dict[tuple[str, Settings], dict[str, Entry]])
    origins: Origins = field(default_factory=dict[tuple[str, Settings], Sequence[Setting]])


@dataclass(frozen=True)
class Survey:
    """How far a study is.

    Args:
        left: Cells that are not finished, or not whole.
        notes: What is wrong with those that are finished and cannot be trusted.
    """

    left: list[Cell]
    notes: list[str]


def planned(opts: Sequence[str], given: Mapping[str, Any], config: CompareConfig, out: Path | None = None) -> Study:
    """Return the runs of a comparison, after all checks that need no run and no data.

    Args:
        opts: Recipe strings, with lists of values.
        given: Options of training; text with commas, or a list, is a list of values.
        config: How it is compared.
        out: The folder of the runs.

    Raises:
        UsageError: If something is not allowed.
    """
    if not opts:
        raise UsageError("no optimizer is given, at least one is needed", "write for example compare sgd sam")
    return of_cells(grid(opts, given, seeds_of(config.seeds)), given, config, out, {"opts": list(opts)})


def of_cells(
    cells: list[Cell], given: Mapping[str, Any], config: CompareConfig, out: Path | None, args: Mapping[str, Any]
) -> Study:
    """Return the study of some cells, after all checks that need no run and no data.

    Raises:
        UsageError: If something is not allowed.
    """
    if out is not None and out.is_file():
        raise UsageError(f"--out is {out}, which is a file", "give a folder")
    for cell in cells:
        _check_recipe(cell)
        check_measured([*config.metrics, *(["val_acc"] if config.select == "val" else [])], cell.config)
    check_named(config, list(dict.fromkeys(cell.label for cell in cells)))
    device = runtime.pick_device(str(given.get("device", "auto")))
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = int(config.jobs) if config.jobs != "auto" else cpus if device.type == "cpu" else 1
    jobs = min(jobs, len(cells))
    threads = None
    if given.get("threads", "auto") == "auto":  # measured in every run it could be another number in each
        threads = max(1, cpus // jobs) if config.jobs != "auto" or device.type != "cpu" else 1
    cells = [_pinned(cell, threads, device.type) for cell in cells]
    told = {**args, "options": dict(given), **asdict(config)}
    return Study(cells, config, out or ROOT, jobs, threads, str(device), told)


def _check_recipe(cell: Cell) -> None:
    config = cell.config
    parse(config.opt)
    try:
        parse(with_radius(config.opt, config.rho))
    except UsageError as error:
        raise UsageError(
            f"--rho is {config.rho:g}, and {cell.label} does not take it: {error.message}",
            "write it into the optimizers that do, as in sam:rho=0.1",
        ) from error


def _pinned(cell: Cell, threads: int | None, device: str) -> Cell:
    """Return a cell without choices that are measured: what sums in another order gives other last digits."""
    config = cell.config if threads is None else replace(cell.config, threads=str(threads))
    if config.channels_last == "auto" and device == "cpu":
        config = replace(config, channels_last="off")
    return replace(cell, config=config)


def surveyed(study: Study) -> Survey:
    """Return how far a study is, from the files of its cells."""
    wanted = set(study.config.wanted_sharpness)
    left, notes = list[Cell](), list[str]()
    for cell in study.cells:
        folder = study.folder / cell.name
        reason = seal.fault(folder)
        if reason is not None and seal.sealed(folder):
            notes.append(f"{folder} {reason}: trained anew")
        if reason is not None or (wanted and not wanted <= stored_sharpness.read(folder).keys()):
            left.append(cell)
    return Survey(left, notes)


def check_data_and_models(cells: Sequence[Cell]) -> None:
    """Build every data set and model of some cells once, so that one that cannot be had is told before any run.

    Raises:
        UsageError: If there is none of that name.
        InputError: If it cannot be had.
    """
    distinct: dict[tuple[Any, ...], TrainConfig] = {}
    for config in (cell.config for cell in cells):
        key = (config.data, config.model, config.label_noise, config.val_frac, config.limit, config.augment)
        distinct.setdefault(key, config)
    for config in distinct.values():
        check_parts(config)


def commands(study: Study) -> list[list[str]]:
    """Return the words of one `sharpkit train` a cell, which goes on with the cell where it is there."""
    default = TrainConfig()
    found: list[list[str]] = []
    for cell in study.cells:
        words = ["sharpkit", "train", "--resume", "auto", "--out", str(study.folder / cell.name), "--quiet"]
        for name, value in asdict(replace(cell.config, preset=None)).items():
            if value == getattr(default, name) or value is None:
                continue
            flag = name.replace("_", "-")
            words += (
                [f"--{flag}"] if value is True else [f"--no-{flag}"] if value is False else [f"--{flag}", str(value)]
            )
        found.append(words)
    return found

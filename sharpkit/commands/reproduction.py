"""`--reproduce`: the runs behind a published table, and its numbers beside ours."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sharpkit.commands.compare_config import CompareConfig
from sharpkit.commands.compare_metrics import METRICS
from sharpkit.commands.compare_result import Printed
from sharpkit.commands.origins import Origins, radii
from sharpkit.commands.study import Study, check_data_and_models, of_cells
from sharpkit.engine import published_tables
from sharpkit.engine.cells import Cell, listed, seeds_of, shown
from sharpkit.engine.config import TrainConfig, with_radius
from sharpkit.engine.datasets import load_dataset
from sharpkit.engine.presets import configured
from sharpkit.engine.provenance import Setting, settings_of
from sharpkit.engine.published_tables import Entry, Table
from sharpkit.errors import InputError, SharpkitError, UsageError
from sharpkit.recipes.grammar import parse
from sharpkit.statistics.comparison import Settings

_MACHINE = ("device", "threads", "workers", "data_dir", "download")
_CHOICES = ("data", "model", "label_noise")
"""Options that choose among the entries of a table."""

_OURS_TOO = (
    "Ours too: which samples are held out, initial weights unless the network says otherwise, a learning rate that "
    "changes at every step, and that the last, smaller batch of an epoch counts."
)
"""The last note of every reproduction: settings that are no options."""


def planned(opts: Sequence[str], given: Mapping[str, Any], own: Mapping[str, Any], out: Path | None) -> Study:
    """Return the runs behind a table, with what a paper says of each.

    Args:
        opts: Recipes to which it is confined; none for all.
        given: Options of the machine, and those that choose among the entries.
        own: Options of the comparison; `reproduce` is the table's name.
        out: The folder of the runs.

    Raises:
        UsageError: If there is no such table, an option is decided by it, or no entry is chosen.
        InputError: If none of its data and models can be had here.
    """
    table = published_tables.find(own["reproduce"])
    for name in given:
        if name not in _MACHINE and name not in _CHOICES:
            raise UsageError(
                f"--{name.replace('_', '-')} is given, and {table.name} decides it", "leave it out, or --reproduce"
            )
    left_out = dict[str, int]()
    entries = [entry for entry in _chosen(table, opts, given) if _runs(table, entry, left_out)]
    seeds = str(own.get("seeds", table.seeds or 5))
    cells, printed, origins = _cells(table, entries, {k: v for k, v in given.items() if k in _MACHINE}, seeds)
    cells = _there(cells, left_out)
    usual = _usual(table, entries, {cell.label for cell in cells})
    chosen: dict[str, Any] = {**usual, **own, "seeds": seeds}
    config = CompareConfig(**chosen)
    told = [f"{count} numbers are left out: {why}" for why, count in left_out.items()]
    cells, scaled = _scaled(cells, config.scale)
    study = of_cells(cells, given, config, out, {"opts": list(opts)})
    notes = [*scaled, *told, *_reported(config, printed), *radii(origins), *table.remarks, _OURS_TOO]
    return replace(study, notes=notes, printed=printed, origins=origins)


def _usual(table: Table, entries: Sequence[Entry], labels: Collection[str]) -> dict[str, Any]:
    """Return how a table is compared where nobody says otherwise: its metrics and the cost, with its baseline."""
    measured = {_metric(entry, configured(table.given(entry))) for entry in entries}
    metrics = [name for name in METRICS if name in measured]
    metrics += [name for name in ("grads_seq", "s_per_epoch") if name not in metrics]
    baseline = table.baseline if table.baseline in labels else None
    return {"metric": ",".join(metrics), "baseline": baseline}


def _metric(entry: Entry, config: TrainConfig) -> str:
    """Return the metric of runs that a number is to be compared with.

    Where the weights of the best validation accuracy are what a paper tests, that is their test accuracy.
    """
    return "best_acc" if entry.metric == "acc" and config.save_every == "best" else entry.metric


def _reported(config: CompareConfig, printed: Printed) -> list[str]:
    """Say which weights the accuracies are of, and which metrics of the paper the user's own choice leaves out."""
    numbers = {name for of_row in printed.values() for name in of_row}
    notes = ["best_acc is the test accuracy of the best validation accuracy, which the authors' code reports"]
    left = sorted(numbers.difference(config.metrics))
    said = [f"the paper's numbers are of {', '.join(left)}, which --metric leaves out"] if left else []
    return [*(notes if "best_acc" in numbers else []), *said]


def _chosen(table: Table, opts: Sequence[str], given: Mapping[str, Any]) -> list[Entry]:
    """Return the entries of some recipes, data, models and noise."""
    wanted = {name: {shown(value) for value in listed(name, given[name])} for name in _CHOICES if name in given}
    entries = [
        entry
        for entry in table.entries
        if (not opts or entry.opt in opts)
        and all(_named(table.given(entry), name) & values for name, values in wanted.items())
    ]
    if not entries:
        every = ", ".join(dict.fromkeys(entry.opt for entry in table.entries))
        raise UsageError(f"{table.name} has no entry of that choice", f"its recipes are {every}")
    return entries


def _named(given: Mapping[str, Any], option: str) -> set[str]:
    """Return the value of an option as text; of a model, also the paper's name for it, which its preset has."""
    names = {shown(given.get(option, ""))}
    if option == "model" and "preset" in given:
        names.add(given["preset"].rpartition("/")[2])
    return names


def _runs(table: Table, entry: Entry, left_out: dict[str, int]) -> bool:
    """Return whether a run can give a number, and count the reason if not."""
    why = ""
    if entry.metric not in METRICS:
        why = f"{published_tables.METRICS[entry.metric]} is not measured by runs"
    else:
        try:
            config = configured(table.given(entry))
            parse(with_radius(config.opt, config.rho))
        except SharpkitError as error:
            why = error.message
    if why:
        left_out[why] = left_out.get(why, 0) + 1
    return not why


def _cells(
    table: Table, entries: Sequence[Entry], machine: Mapping[str, Any], seeds: str
) -> tuple[list[Cell], Printed, Origins]:
    """Return the cells of entries, what is printed for each recipe and setting, and who says the settings."""
    epochs = {(e.opt, _but_epochs(table, e)): set[int]() for e in entries}
    for entry in entries:
        epochs[entry.opt, _but_epochs(table, entry)].add(configured(table.given(entry)).epochs)
    varied = _varied(table, entries)
    cells: dict[str, Cell] = {}
    printed: Printed = {}
    origins: dict[tuple[str, Settings], Sequence[Setting]] = {}
    for entry in entries:
        config = configured({**table.given(entry), **machine})
        several = len(epochs[entry.opt, _but_epochs(table, entry)]) > 1
        label = f"{entry.opt}, {config.epochs} epochs" if several else entry.opt
        settings = tuple((name, shown(getattr(config, name))) for name in varied)
        printed.setdefault((label, settings), {})[_metric(entry, config)] = entry
        origins.setdefault((label, settings), settings_of(table, entry))
        for seed in seeds_of(seeds):
            cell = Cell(label, settings, replace(config, seed=seed))
            cells.setdefault(cell.name, cell)
    return list(cells.values()), printed, origins


def _but_epochs(table: Table, entry: Entry) -> str:
    return repr(sorted((k, v) for k, v in table.given(entry).items() if k not in ("epochs", "preset", "opt")))


def _varied(table: Table, entries: Sequence[Entry]) -> list[str]:
    """Return the options in which entries differ, beside the recipe and what follows from it."""
    given = [table.given(entry) for entry in entries]
    names = dict.fromkeys(name for one in given for name in one if name not in ("opt", "preset", "epochs"))
    return [name for name in names if len({repr(one.get(name)) for one in given}) > 1]


def _there(cells: Sequence[Cell], left_out: dict[str, int]) -> list[Cell]:
    """Return the cells whose data and model can be had here.

    Raises:
        InputError: If there is none.
    """
    checked: dict[tuple[str, str], SharpkitError | None] = {}
    kept: list[Cell] = []
    for cell in cells:
        key = (cell.config.data, cell.config.model)
        if key not in checked:
            try:
                check_data_and_models([cell])
            except SharpkitError as error:
                checked[key] = error
            else:
                checked[key] = None
        if (error := checked[key]) is None:
            kept.append(cell)
        elif cell.seed == cells[0].seed:
            why = f"{error.message}; {error.hint}"
            left_out[why] = left_out.get(why, 0) + 1
    if kept:
        return kept
    raise next((error for error in checked.values() if error), InputError("nothing of the table can be run here", ""))


def _scaled(cells: Sequence[Cell], scale: float) -> tuple[list[Cell], list[str]]:
    """Return cells with a fraction of their epochs and data, and how that is said."""
    if scale == 1:
        return list(cells), []
    sizes: dict[str, int] = {}
    for cell in cells:
        if cell.config.data not in sizes:
            sizes[cell.config.data] = len(load_dataset(cell.config).train)
    configs = [_shrunk(cell.config, scale, sizes[cell.config.data]) for cell in cells]
    most, data = max((c.config.epochs, config.epochs) for c, config in zip(cells, configs, strict=True)), sizes
    told = ", ".join(f"{max(1, round(scale * n))} of {n} samples of {name}" for name, n in data.items())
    note = f"SCALED by {scale:g}: {most[1]} of {most[0]} epochs, {told}. These are not the paper's settings."
    return [replace(cell, config=config) for cell, config in zip(cells, configs, strict=True)], [note]


def _shrunk(config: TrainConfig, scale: float, samples: int) -> TrainConfig:
    epochs = max(1, round(scale * config.epochs))
    warmup = min(config.warmup_epochs * scale, float(epochs))
    return replace(config, epochs=epochs, warmup_epochs=warmup, limit=max(1, round(scale * samples)))

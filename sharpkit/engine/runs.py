"""Finished runs, wherever they lie, and how they differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharpkit.engine.cells import shown
from sharpkit.engine.seal import fault, summary_of
from sharpkit.errors import InputError
from sharpkit.recipes.grid import shortened
from sharpkit.statistics.comparison import Settings

_NO_SETTING = {
    "opt", "seed", "preset", "rho", "device", "threads", "workers", "data_dir", "download", "channels_last", "probe",
    "probe_every", "probe_samples", "save_every",
}  # fmt: skip
"""Options in which runs may differ and still be compared."""

_HINT = "give run directories, or folders that hold some"


@dataclass(frozen=True)
class Run:
    """A finished run.

    Args:
        folder: Where it lies.
        label: Its recipe.
        settings: The options in which the runs at hand differ, beside recipe and seed.
        seed: Its seed.
        summary: What it said at its end.
    """

    folder: Path
    label: str
    settings: Settings
    seed: int
    summary: Mapping[str, Any]


def collected(paths: Sequence[Path], notes: list[str]) -> list[Run]:
    """Return the runs in folders and below them, one for each recipe, setting and seed, plain SGD first.

    An option that has one value for every recipe, and not the same for all, belongs to the recipes and is no setting.

    Args:
        paths: Run directories, or folders that hold some.
        notes: Gets a line for every run that is passed over, and for such options.

    Raises:
        InputError: If there is no path, or no run.
    """
    summaries: dict[Path, dict[str, Any]] = {}
    for folder in _folders(paths):
        if (reason := fault(folder, checkpoint=False)) is not None:
            notes.append(f"passed over: {folder} {reason}")
        else:
            summaries[folder] = summary_of(folder)
    if not summaries:
        raise InputError(f"no finished run in {', '.join(map(str, paths))}", _HINT)
    every = [summary["args"] for summary in summaries.values()]
    names, labels = _settings(every, notes), shortened({str(args["opt"]) for args in every})
    runs: dict[tuple[str, Settings, int], Run] = {}
    for folder, summary in summaries.items():
        args = summary["args"]
        settings = tuple((name, shown(args.get(name, "-"))) for name in names)
        run = Run(folder, labels[str(args["opt"])], settings, int(args["seed"]), summary)
        first = runs.setdefault((run.label, settings, run.seed), run)
        if first is not run:
            notes.append(f"passed over: {folder} is the same as {first.folder}, with the same seed")
    return sorted(runs.values(), key=_order)


def _settings(args: Sequence[Mapping[str, Any]], notes: list[str]) -> list[str]:
    """Return the options in which runs differ for other reasons than their recipe."""
    found: list[str] = []
    for name in sorted({name for one in args for name in one} - _NO_SETTING):
        by_recipe: dict[str, set[str]] = {}
        for one in args:
            by_recipe.setdefault(str(one["opt"]), set()).add(shown(one.get(name, "-")))
        if len(set[str]().union(*by_recipe.values())) == 1:
            continue
        if len(by_recipe) > 1 and all(len(values) == 1 for values in by_recipe.values()):
            told = ", ".join(f"{recipe} {next(iter(values))}" for recipe, values in by_recipe.items())
            notes.append(f"{name} differs between the optimizers: {told}")
        else:
            found.append(name)
    return found


def _order(run: Run) -> tuple[Any, ...]:
    """Return what to sort by: settings as numbers where they are, plain SGD, recipe, seed."""
    return tuple(_number(value) for _, value in run.settings), run.label != "sgd", run.label, run.seed


def _number(text: str) -> tuple[int, float, str]:
    try:
        return 0, float(text), text
    except ValueError:
        return 1, 0.0, text


def _folders(paths: Iterable[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise InputError(f"{path} does not exist", _HINT)
        folder = path if path.is_dir() else path.parent
        inside = (config.parent for config in sorted(folder.rglob("config.toml")))
        found += [run for run in inside if not any(part.startswith(".") for part in run.relative_to(folder).parts)]
    return list(dict.fromkeys(found))

"""Runs, wherever they lie, finished or without a result, and how they differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharpkit.engine.cells import shown
from sharpkit.engine.rundir import RunDir, read_config
from sharpkit.engine.seal import fault, sealed, summary_of
from sharpkit.errors import InputError
from sharpkit.recipes.grid import shortened
from sharpkit.statistics.comparison import Lost, Settings

_NO_SETTING = {
    "opt", "seed", "preset", "rho", "device", "threads", "workers", "data_dir", "download", "channels_last", "probe",
    "probe_every", "probe_samples", "save_every",
}  # fmt: skip
"""Options in which runs may differ and still be compared."""

_HINT = "give run directories, or folders that hold some"


@dataclass(frozen=True)
class Run:
    """A run.

    Args:
        folder: Where it lies.
        label: Its recipe.
        settings: The options in which the runs at hand differ, beside recipe and seed.
        seed: Its seed.
        summary: What it said at its end; nothing where it has no result.
        lost: Why it has none; None where it has.
    """

    folder: Path
    label: str
    settings: Settings
    seed: int
    summary: Mapping[str, Any]
    lost: Lost | None = None


def collected(paths: Sequence[Path], notes: list[str]) -> list[Run]:
    """Return the runs in folders and below them, one for each recipe, setting and seed, plain SGD first.

    Runs that diverged are among them, and those that are not finished if they differ from others by their seed alone.
    An option that has one value for every recipe, and not the same for all, belongs to the recipes and is no setting.

    Args:
        paths: Run directories, or folders that hold some.
        notes: Gets a line for every run that is passed over, and for such options.

    Raises:
        InputError: If there is no path, or no finished run.
    """
    summaries: dict[Path, dict[str, Any]] = {}
    diverged: dict[Path, dict[str, Any]] = {}
    unfinished: dict[Path, dict[str, Any]] = {}
    for folder in _folders(paths):
        reason = fault(folder, checkpoint=False)
        if reason is None:
            summaries[folder] = summary_of(folder)
            continue
        args = _asked(folder)
        if args is not None and not sealed(folder) and RunDir(folder).diverged():
            diverged[folder] = args
            continue
        notes.append(f"passed over: {folder} {reason}")
        if args is not None:
            unfinished[folder] = args
    if not summaries:
        raise InputError(f"no finished run in {', '.join(map(str, paths))}", _HINT)
    every = [*(summary["args"] for summary in summaries.values()), *diverged.values()]
    names, labels = _settings(every, notes), shortened({str(args["opt"]) for args in every})
    known = [_but_the_seed(args) for args in every]
    found: list[tuple[Path, Mapping[str, Any], Mapping[str, Any], Lost | None]] = [
        *((folder, summary["args"], summary, None) for folder, summary in summaries.items()),
        *((folder, args, {}, "diverged") for folder, args in diverged.items()),
        *((folder, args, {}, "missing") for folder, args in unfinished.items() if _but_the_seed(args) in known),
    ]
    runs: dict[tuple[str, Settings, int], Run] = {}
    for folder, args, summary, lost in found:
        settings = tuple((name, shown(args.get(name, "-"))) for name in names)
        run = Run(folder, labels[str(args["opt"])], settings, int(args["seed"]), summary, lost)
        first = runs.setdefault((run.label, settings, run.seed), run)
        if first is not run and lost != "missing":
            notes.append(f"passed over: {folder} is the same as {first.folder}, with the same seed")
    return sorted(runs.values(), key=_order)


def _asked(folder: Path) -> dict[str, Any] | None:
    """Return the options of a run that has no result; None if they cannot be read."""
    try:
        args = read_config(RunDir(folder).config)
        return args if isinstance(args["seed"], int) and isinstance(args["opt"], str) else None
    except (InputError, KeyError):
        return None


def _but_the_seed(args: Mapping[str, Any]) -> dict[str, str]:
    return {name: shown(value) for name, value in args.items() if name == "opt" or name not in _NO_SETTING}


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

"""Finished runs, wherever they lie, and how they differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharpkit.engine.cells import shown
from sharpkit.engine.seal import fault, summary_of
from sharpkit.errors import InputError
from sharpkit.statistics.comparison import Settings

_NO_SETTING = ("opt", "seed", "preset", "rho", "device", "threads", "workers", "data_dir", "download", "channels_last")


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


def collected(paths: Sequence[Path], passed_over: list[str]) -> list[Run]:
    """Return the runs in folders and below them.

    Args:
        paths: Run directories, or folders that hold some.
        passed_over: Gets a line for every run that cannot be trusted.

    Raises:
        InputError: If there is no path, or no run.
    """
    summaries: dict[Path, dict[str, Any]] = {}
    for folder in _folders(paths):
        if (reason := fault(folder)) is not None:
            passed_over.append(f"{folder} {reason}")
            continue
        summaries[folder] = summary_of(folder)
    if not summaries:
        raise InputError(
            f"no finished run in {', '.join(map(str, paths))}", "give run directories, or folders that hold some"
        )
    args = [summary["args"] for summary in summaries.values()]
    names = sorted({name for one in args for name in one} - {*_NO_SETTING})
    differing = [name for name in names if len({repr(one.get(name)) for one in args}) > 1]
    runs = [
        Run(
            folder,
            str(summary["args"]["opt"]),
            tuple((name, shown(summary["args"].get(name, "-"))) for name in differing),
            int(summary["args"]["seed"]),
            summary,
        )
        for folder, summary in summaries.items()
    ]
    return sorted(runs, key=lambda run: (run.settings, run.seed))


def _folders(paths: Iterable[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise InputError(f"{path} does not exist", "give run directories, or folders that hold some")
        folder = path if path.is_dir() else path.parent
        inside = [config.parent for config in sorted(folder.rglob("config.toml"))]
        found += inside
    return list(dict.fromkeys(found))

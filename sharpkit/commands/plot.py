"""`sharpkit plot`: training curves, probes and %SAM of runs, from what they wrote."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sharpkit.commands.curves import Run, averaged, metrics_of, named_groups, read_run
from sharpkit.commands.figure_files import FIGURES, write_figure
from sharpkit.commands.ownership import check_replaceable
from sharpkit.commands.plot_config import PlotConfig
from sharpkit.engine.atomic import make_place
from sharpkit.engine.documents import document
from sharpkit.engine.rundir import RunDir, write_text
from sharpkit.errors import InputError, SharpkitError, UsageError
from sharpkit.figures.curves import Curve

USUAL = ("train_loss", "val_loss", "train_acc", "val_acc", "pct_sam")
"""Drawn without being asked for, where they say something; every probe is too."""


@dataclass(frozen=True)
class PlotResult:
    """The curves that were drawn.

    Args:
        curves: One for every group and metric.
        runs: How many runs each group has.
        failed: What is wrong with the runs that could not be read.
        files: What was written.
        args: The configuration.
        warnings: What a reader should know.
    """

    curves: list[Curve]
    runs: dict[str, list[str]]
    failed: dict[str, SharpkitError]
    files: list[str]
    args: dict[str, Any]
    warnings: list[str]

    @property
    def exit_code(self) -> int:
        """0, or 5 where some runs could not be read."""
        return 5 if self.failed else 0

    def document(self) -> dict[str, Any]:
        """Return the JSON document of the command."""
        curves = [
            {"group": c.group, "metric": c.metric, "x": c.x.tolist(), "mean": c.mean.tolist(), "std": c.std.tolist(),
             "low": c.low.tolist(), "high": c.high.tolist(), "count": c.count.tolist()}
            for c in self.curves
        ]  # fmt: skip
        failed = [{"run": name, **error.told()} for name, error in self.failed.items()]
        body = {"args": self.args, "results": curves, "runs": self.runs, "failed": failed, "files": self.files,
                "warnings": self.warnings}  # fmt: skip
        return document("plot", body, ok=self.exit_code == 0)


def run(names: Sequence[str], config: PlotConfig, out: Path | None = None) -> PlotResult:
    """Draw the curves of runs.

    Args:
        names: Run directories, or files in them.
        config: What is drawn.
        out: A figure (png, pdf or svg), or a table of all points (csv); None is curves.png in the runs' common folder.

    Raises:
        SharpkitError: As the errors of `sharpkit.errors` say; of several runs only if none can be read.
    """
    suffixes = (*FIGURES, ".csv")
    if not names:
        raise UsageError("no run is given, at least one is needed", "give a run directory")
    if out is not None:
        if out.suffix not in suffixes:
            raise UsageError(f"--out is {out}, allowed endings are {', '.join(suffixes)}", "give another name")
        check_replaceable([out])
        make_place(out)
    wanted = config.metrics
    runs, failed = _read(names)
    chosen = wanted or _usual(runs)
    groups = named_groups(runs, by_run=config.by_run)
    curves = [
        curve
        for metric in chosen
        for group, members in groups.items()
        if (curve := averaged(group, members, metric, config.x)) is not None
    ]
    missing = [metric for metric in chosen if not any(c.metric == metric for c in curves)]
    if missing:
        there = ", ".join(metrics_of(runs))
        raise UsageError(f"no run has measured {', '.join(missing)}", f"there are {there}")
    target = out or _folder(runs) / "curves.png"
    if target.suffix == ".csv":
        files = [_write_points(target, curves, config.x)]
    else:
        from sharpkit.figures.curves import curves as drawn

        files = [write_figure(target, drawn(curves, config.x, config.band, log_y=config.log_y))]
    args = {"runs": list(names), **asdict(config)}
    members = {group: [run.name for run in of] for group, of in groups.items()}
    return PlotResult(curves, members, failed, [str(f) for f in files], args, [])


def _read(names: Sequence[str]) -> tuple[list[Run], dict[str, SharpkitError]]:
    runs, failed = list[Run](), dict[str, SharpkitError]()
    for name in dict.fromkeys(names):
        path = Path(name)
        folder = path.parent if path.is_file() else path
        try:
            if not folder.is_dir():
                raise InputError(f"the run {name} does not exist", "give a run directory")
            runs.append(read_run(name, RunDir(folder)))
        except SharpkitError as error:
            failed[name] = error
    if not runs:
        raise next(iter(failed.values()))
    return runs, failed


def _usual(runs: Sequence[Run]) -> tuple[str, ...]:
    """Return losses and accuracies that were measured, %SAM where it is not 0 or 100 all along, and every probe."""
    there = metrics_of(runs)
    probes = [key for run in runs for record in run.records.get("probe", []) for key in record]
    usual = [name for name in USUAL if name in there and any(_says_something(r, name) for r in runs)]
    extra = [name for name in dict.fromkeys(probes) if name in there and any(_says_something(r, name) for r in runs)]
    return tuple(dict.fromkeys(usual + extra))


def _says_something(run: Run, metric: str) -> bool:
    _, values = run.curve(metric, "step")
    values = values[np.isfinite(values)]
    if metric == "pct_sam":
        return bool(((values > 0) & (values < 100)).any())
    return bool(len(values))


def _folder(runs: Sequence[Run]) -> Path:
    folders = [Path(r.name).parent if Path(r.name).is_file() else Path(r.name) for r in runs]
    if len(folders) == 1:
        return folders[0]
    return Path(os.path.relpath(os.path.commonpath([str(f.resolve()) for f in folders])))


def _write_points(path: Path, curves: Sequence[Curve], x: str) -> Path:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["group", "metric", x, "mean", "std", "low", "high", "count"])
    for c in curves:
        for row in zip(c.x, c.mean, c.std, c.low, c.high, c.count, strict=True):
            writer.writerow([c.group, c.metric, *(repr(float(v)) for v in row[:-1]), int(row[-1])])
    write_text(path, text.getvalue())
    return path

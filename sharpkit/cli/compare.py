"""`sharpkit compare`."""

from __future__ import annotations

import inspect
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sharpkit.cli.options import PANELS, parameters, with_parameters
from sharpkit.cli.shared import OUTPUT, Json, NoColor, Traceback
from sharpkit.cli.terminal import EndedEarly, Terminal
from sharpkit.commands import compare_config
from sharpkit.commands.compare_config import CompareConfig
from sharpkit.engine.config import TrainConfig, options
from sharpkit.engine.documents import to_json
from sharpkit.errors import UsageError

if TYPE_CHECKING:
    from sharpkit.commands.compare import CompareResult

Format = Literal["table", "tsv", "csv", "jsonl", "md", "latex"]


def compare(
    opts: Annotated[
        list[str] | None, typer.Argument(metavar="OPT...", help="Optimizers; rho=0.05,0.1 is a list of values.")
    ] = None,
    *,
    from_runs: Annotated[
        list[str] | None,
        typer.Option(
            "--from", metavar="RUN|DIR|-", help="Compare runs that are there; - reads them from stdin.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Folder of the runs (default: runs/compare); finished ones "
                     "are not run again.", rich_help_panel=OUTPUT),
    ] = None,
    form: Annotated[
        Format | None,
        typer.Option("--format", help="table, tsv, csv, jsonl, md or latex (default: table for a person, else tsv).",
                     rich_help_panel=OUTPUT),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Figure of all seeds: .png, .pdf or .svg.",
                                  rich_help_panel=OUTPUT),
    ] = None,
    plot_vs: Annotated[
        str | None,
        typer.Option("--plot-vs", metavar="KEY[,KEY]", help="In --plot, the metric against a hyperparameter or option; "
                     "of two, a heat map.", rich_help_panel=OUTPUT),
    ] = None,
    emit_commands: Annotated[
        bool, typer.Option("--emit-commands", help="Print one command a run, for xargs, parallel or a job array.",
                           rich_help_panel=OUTPUT)
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Check everything, list the runs.", rich_help_panel=OUTPUT)
    ] = False,
    json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the table.", rich_help_panel=OUTPUT)] = False,
    no_progress: Annotated[
        bool, typer.Option("--no-progress", help="Plain lines in place of a bar.", rich_help_panel=OUTPUT)
    ] = False,
    no_color: NoColor = False,
    traceback: Traceback = False,
    **given: Any,
) -> None:  # fmt: skip
    """Does it help, is it noise, what does it cost: optimizers x seeds, with statistics.

    Any option of training may be a list of values. Runs that are finished are not run again; an interrupted
    comparison goes on with the same command.

    Example: sharpkit compare sgd sam sampa:lam=0.2 --seeds 5 --label-noise 0.4
    """
    from sharpkit.cli.compare_progress import CompareProgress
    from sharpkit.commands import compare as command
    from sharpkit.commands.compare_files import draw, write

    terminal = Terminal(json=json, quiet=quiet, progress=not no_progress, color=not no_color)
    own = options(CompareConfig)
    chosen = {name: value for name, value in given.items() if value is not None}
    config = CompareConfig(**{name: value for name, value in chosen.items() if name in own})
    training = {name: value for name, value in chosen.items() if name not in own}
    if from_runs:
        if opts or training:
            raise UsageError("--from is given with optimizers or options of training", "leave them out")
        result = command.from_runs([Path(path) for path in _listed(from_runs)], config)
    else:
        study = command.planned(opts or [], training, config, out)
        if emit_commands:
            for words in command.commands(study):
                print(shlex.join(words))
            return
        if dry_run:
            _show_plan(study, terminal)
            return
        with CompareProgress(terminal, study) as progress:
            result = command.run(study, progress)
        if result.rows:
            write(result, study.folder)
    if plot is not None or plot_vs is not None:
        draw(result, plot or Path("compare.png"), plot_vs)
    _render(result, terminal, form)
    if result.exit_code:
        raise EndedEarly(result.exit_code)


def _listed(paths: list[str]) -> list[str]:
    """Return the paths; - stands for those on stdin, one a line."""
    read = [line.strip() for line in sys.stdin if line.strip()] if "-" in paths else []
    return [path for given in paths for path in (read if given == "-" else [given])]


def _show_plan(study: Any, terminal: Terminal) -> None:
    left = {cell.name for cell in study.unfinished([])}
    rows = [
        [cell.name, cell.label, str(cell.seed), str(cell.config.epochs), "to run" if cell.name in left else "finished"]
        for cell in study.cells
    ]
    if terminal.json:
        from sharpkit.engine.documents import document

        cells = [dict(zip(("cell", "opt", "seed", "epochs", "state"), row, strict=True)) for row in rows]
        print(to_json(document("compare", {"args": study.args, "jobs": study.jobs, "cells": cells})), end="")
        return
    terminal.rows(["run", "optimizer", "seed", "epochs", "state"], rows, f"{len(rows)} runs, {study.jobs} at once")


def _render(result: CompareResult, terminal: Terminal, form: str | None) -> None:
    from sharpkit.commands.compare_formats import FORMATS, columns

    for note in result.notes:
        terminal.say(f"note: {note}")
    if terminal.json:
        print(to_json(result.document()), end="")
    elif result.rows and (form in (None, "table") and (terminal.person or form == "table")):
        header, rows = columns(result)
        terminal.rows(header, rows, _title(result))
        for row in result.rows:
            if not row.baseline:
                place = "".join(f", {key} {value}" for key, value in row.group.settings)
                terminal.say(f"{row.group.label}{place}: {result.sentence(row)}")
    elif result.rows:
        print(FORMATS[form or "tsv"](result), end="")
    for name, failure in result.failed.items():
        terminal.say(f"failed: {name}: {failure.message}" + (f"; {failure.hint}" if failure.hint else ""))
    for verdict in result.verdicts:
        terminal.say(f"{'met' if verdict.met else 'NOT met'}: {verdict.text} ({verdict.reason})")
    if result.signal_number:
        print(f"sharpkit: stopped; {result.missing} runs are left, the same command goes on", file=sys.stderr)
    for file in result.files:
        terminal.say(f"written: {file}")


def _title(result: CompareResult) -> str:
    config = result.config
    test = {"paired-t": "paired t-test", "wilcoxon": "Wilcoxon's signed-rank test", "welch": "Welch's t-test"}
    correction = {"holm": ", p corrected by Holm", "bh": ", p corrected by Benjamini and Hochberg", "none": ""}
    tested = f"; {test[config.test]} to the baseline{correction[config.correct]}" if config.test != "none" else ""
    chosen = "; hyperparameters chosen on validation accuracy" if config.select == "val" else ""
    return f"mean ± standard deviation over seeds{tested}{chosen}"


def _as_list(parameter: inspect.Parameter) -> inspect.Parameter:
    """Return an option of training that takes a list of values; a switch stays one."""
    return parameter if parameter.annotation == bool | None else parameter.replace(annotation=str | None)


def with_compare_options(function: Callable[..., Any] = compare) -> Callable[..., Any]:
    """Return the command with the options of training, as lists, and those of a comparison."""
    training = [_as_list(p) for p in parameters(TrainConfig, PANELS) if p.name not in ("opt", "seed")]
    return with_parameters(function, [*parameters(CompareConfig, compare_config.PANELS), *training])

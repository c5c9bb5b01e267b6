"""`sharpkit compare`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from sharpkit.cli.compare_progress import CompareProgress
from sharpkit.cli.options import PANELS, given_by_name, parameters, with_parameters
from sharpkit.cli.shared import OUTPUT, ConfigFile, Json, NoColor, Traceback
from sharpkit.cli.terminal import EndedEarly, Terminal
from sharpkit.commands import compare_config
from sharpkit.commands.compare_config import CompareConfig
from sharpkit.engine.config import TrainConfig, from_mapping, options
from sharpkit.errors import UsageError

if TYPE_CHECKING:
    from sharpkit.commands.compare_result import CompareResult
    from sharpkit.commands.study import Study

Format = Literal["table", "tsv", "csv", "json", "jsonl", "md", "latex"]


def compare(
    context: typer.Context,
    opts: Annotated[
        list[str] | None, typer.Argument(metavar="OPT...", help="Optimizers; rho=0.05,0.1 is a list of values.")
    ] = None,
    *,
    config: ConfigFile = None,
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
        typer.Option("--format", help="table, tsv, csv, json, jsonl, md or latex (default: table for a person, else "
                     "tsv).", rich_help_panel=OUTPUT),
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
    curves: Annotated[
        Path | None, typer.Option("--curves", metavar="FILE", help="Figure of loss and accuracy over the epochs.",
                                  rich_help_panel=OUTPUT),
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
    terminal = Terminal(json=json or form == "json", quiet=quiet, progress=not no_progress, color=not no_color)
    if from_runs:  # which runs nothing: what the environment says of runs is no request
        of_runs = [name for name in given if name not in options(CompareConfig) or name in _OF_RUNS]
        named = given_by_name(context, given)
        given = {name: value for name, value in given.items() if name not in of_runs or name in named}
    asked = _Asked.read(opts or [], config, given)
    from sharpkit.cli.compare_output import show, show_commands, show_plan
    from sharpkit.commands.compare_files import check_figures, draw, draw_curves, write

    check_figures(plot, plot_vs, curves)
    if from_runs:
        asked.refuse_runs()
        from sharpkit.commands import compare_runs

        paths = [Path(path) for path in _listed(from_runs)]
        result, folder = compare_runs.from_runs(paths, asked.comparison), out
    else:
        with redirect_stdout(sys.stderr):  # what a user's own files print
            study = _planned(asked, out, plot_vs, terminal, dry_run=dry_run)
        if emit_commands or dry_run:
            show_commands(study) if emit_commands else show_plan(study, terminal)
            return
        with redirect_stdout(sys.stderr):
            result, folder = _run(study, terminal), study.folder
    if result.rows and folder is not None:
        write(result, folder)
    if plot is not None and result.rows:
        draw(result, plot, plot_vs)
    if curves is not None and result.rows:
        draw_curves(result, curves)
    show(result, terminal, form)
    if result.exit_code:
        raise EndedEarly(result.exit_code)


@dataclass(frozen=True)
class _Asked:
    """What is compared: optimizers, how, and the options of training."""

    opts: list[str]
    own: dict[str, Any]
    training: dict[str, Any]

    @classmethod
    def read(cls, opts: list[str], file: str | None, given: Mapping[str, Any]) -> _Asked:
        """Return what the command line says over what a file says; lists of values may be lists in it."""
        stored = {} if file is None else _stored(file)
        told = stored.pop("opt", [])
        opts = opts or cast("list[str]", told if isinstance(told, list) else [told])
        chosen = {**stored, **{name: value for name, value in given.items() if value is not None}}
        names = options(CompareConfig)
        return cls(
            opts,
            {name: value for name, value in chosen.items() if name in names},
            {name: value for name, value in chosen.items() if name not in names},
        )

    @property
    def comparison(self) -> CompareConfig:
        """How it is compared."""
        return CompareConfig(**self.own)

    def refuse_runs(self) -> None:
        """Refuse what only a comparison that runs something can take."""
        if self.opts or self.training:
            raise UsageError("--from is given with optimizers or options of training", "leave them out")
        if found := [f"--{name}" for name in _OF_RUNS if name in self.own]:
            raise UsageError(f"--from is given with {', '.join(found)}, which decides what is run", "leave it out")


_OF_RUNS = ("seeds", "budget", "jobs", "reproduce", "scale")
"""Options of a comparison that decide what is run."""


def _stored(file: str) -> dict[str, Any]:
    """Return the options of a file, by name."""
    from sharpkit.engine.rundir import read_config

    read = {name.replace("-", "_"): value for name, value in read_config(Path(file)).items()}
    own = from_mapping(
        {name: read.pop(name) for name in list(read) if name in options(CompareConfig)}, file, CompareConfig
    )
    if "seed" in read:
        raise UsageError(f"{file} sets seed, and a comparison has several", 'set seeds = "5", or "0,3,7"')
    for name, value in read.items():
        values: list[Any] = cast("list[Any]", value) if isinstance(value, list) else [value]
        for one in values or [None]:
            from_mapping({name: one}, file)
    return {**own, **read}


def _planned(asked: _Asked, out: Path | None, plot_vs: str | None, terminal: Terminal, *, dry_run: bool) -> Study:
    """Return what is to be run, with its budget settled."""
    from sharpkit.commands import budget, reproduction, study
    from sharpkit.figures.comparison import checked_keys

    if "reproduce" in asked.own:
        planned = reproduction.planned(asked.opts, asked.training, asked.own, out)
    else:
        planned = study.planned(asked.opts, asked.training, asked.comparison, out)
    if plot_vs is not None:
        checked_keys(plot_vs, [(cell.label, cell.settings) for cell in planned.cells])
    if dry_run:
        study.check_data_and_models(planned.cells)
    if pilots := budget.pilots(planned):
        if dry_run:
            raise UsageError(
                f"--budget seconds has {len(pilots)} recipes to time first, and --dry-run runs nothing",
                "leave one of them out",
            )
        study.check_data_and_models(pilots)
        terminal.say(f"timing {len(pilots)} recipes, one at a time")
        with CompareProgress(terminal, len(pilots), pilots) as progress:
            budget.time_pilots(planned, pilots, progress)
    return budget.settled(planned)


def _run(planned: Study, terminal: Terminal) -> CompareResult:
    from sharpkit.commands import compare as command
    from sharpkit.commands.study import surveyed

    survey = surveyed(planned)
    with CompareProgress(terminal, len(planned.cells), survey.left) as progress:
        return command.run(planned, survey, progress)


def _listed(paths: list[str]) -> list[str]:
    """Return the paths; - stands for those on stdin, one a line."""
    read = [line.strip() for line in sys.stdin if line.strip()] if "-" in paths else []
    found = [path for given in paths for path in (read if given == "-" else [given])]
    if not found:
        raise UsageError("--from - got no path on stdin, at least one is needed", "write them one a line")
    return found


def _as_list(parameter: inspect.Parameter) -> inspect.Parameter:
    """Return an option of training that takes a list of values; a switch stays one."""
    return parameter if parameter.annotation == bool | None else parameter.replace(annotation=str | None)


_NOT_HERE = ("opt", "seed", "ascent_scope", "sync_bn", "sampa_devices", "sampa_streams", "timeout")
"""Options of a training run that a comparison chooses, or that are of runs in several processes."""


def with_compare_options(function: Callable[..., Any] = compare) -> Callable[..., Any]:
    """Return the command with the options of training, as lists, and those of a comparison."""
    training = [_as_list(p) for p in parameters(TrainConfig, PANELS) if p.name not in _NOT_HERE]
    return with_parameters(function, [*parameters(CompareConfig, compare_config.PANELS), *training])

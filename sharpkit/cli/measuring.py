"""What the commands that measure checkpoints do alike: their options, a plan or a run, and telling the result."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

import typer

from sharpkit.cli.options import with_options
from sharpkit.cli.planning import print_options, print_plan
from sharpkit.cli.shared import (
    OUTPUT,
    Checkpoints,
    ConfigFile,
    Json,
    NoColor,
    NoPlot,
    NoProgress,
    Quiet,
    Traceback,
    listed,
    options_of,
)
from sharpkit.cli.terminal import EndedEarly, Terminal
from sharpkit.commands.checkpoint_config import CheckpointConfig
from sharpkit.engine.documents import to_json

if TYPE_CHECKING:
    from sharpkit.cli.status import StatusProgress
    from sharpkit.commands.measure import Measured

C = TypeVar("C", bound=CheckpointConfig)
R = TypeVar("R")

OutFile = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="FILE",
        help="File for all: .png, .pdf, .svg, .npz or .csv (default: .npz and .png beside the checkpoints).",
        rich_help_panel=OUTPUT,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", "-n", help="Load everything, say what would be measured.", rich_help_panel=OUTPUT),
]
PrintConfig = Annotated[
    bool, typer.Option("--print-config", help="Print the options as TOML, for --config.", rich_help_panel=OUTPUT)
]


@dataclass(frozen=True)
class Call(Generic[C]):
    """What a command is asked.

    Args:
        names: Checkpoint files or run directories.
        options: What is computed.
        plot: Whether a figure is drawn where no file is named.
        terminal: Who reads the result.
    """

    names: list[str]
    options: C
    plot: bool
    terminal: Terminal

    def measured(
        self, run: Callable[..., Measured[R]], progress: Callable[[Terminal], StatusProgress], **more: Any
    ) -> Measured[R]:
        """Run a command with its progress on stderr, and what a user's own files print there too."""
        with progress(self.terminal) as told, redirect_stdout(sys.stderr):
            return run(self.names, self.options, plot=self.plot, observer=told, **more)

    def tell(
        self,
        result: Measured[R],
        line: Callable[[R], dict[str, str]],
        tables: Callable[[Mapping[str, R], Terminal], None],
        stopped: str = "what was found until then is above",
    ) -> None:
        """Write the result in the form that its reader wants, and end with its exit code.

        Args:
            result: What was found.
            line: A result as a row of values by column, for a pipe.
            tables: Writes all results for a person.
            stopped: What a reader should know where a signal stopped it.

        Raises:
            EndedEarly: If the exit code is not 0.
        """
        terminal = self.terminal
        for warning in result.warnings:
            terminal.say(f"warning: {warning}")
        if terminal.json:
            print(to_json(result.document()), end="")
        elif terminal.person:
            tables(result.results, terminal)
        else:
            rows = [{"ckpt": name, **line(found)} for name, found in result.results.items()]
            terminal.rows(list(rows[0]), [list(row.values()) for row in rows])
        for file in result.files:
            terminal.say(f"written: {file}")
        if result.signal_number:
            from sharpkit.commands.checkpoints import stopped_by

            name = stopped_by(result.signal_number)
            print(f"sharpkit: stopped by {name}; {stopped}", file=sys.stderr)
        if result.unwritten:
            print(f"sharpkit: {result.unwritten.message}; {result.unwritten.hint}", file=sys.stderr)
        if result.exit_code:
            raise EndedEarly(result.exit_code)


def checkpoint_command(
    name: str, of: type[C], panels: Mapping[str, tuple[str, ...]]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return what makes a command of a function that takes a `Call` and the options that it declares itself.

    Args:
        name: Of the command.
        of: The class of its configuration.
        panels: The options of that class by panel of `--help`.
    """

    def command_of(function: Callable[..., None]) -> Callable[..., None]:
        _, *own = inspect.signature(function, eval_str=True).parameters.values()

        def command(
            checkpoints: Checkpoints,
            *,
            config: ConfigFile = None,
            no_plot: NoPlot = False,
            json: Json = False,
            quiet: Quiet = False,
            no_progress: NoProgress = False,
            no_color: NoColor = False,
            traceback: Traceback = False,
            dry_run: DryRun = False,
            print_config: PrintConfig = False,
            **given: Any,
        ) -> None:
            more = {parameter.name: given.pop(parameter.name) for parameter in own}
            options = options_of(of, config, given)
            terminal = Terminal(json=json, quiet=quiet, progress=not no_progress, color=not no_color)
            if print_config:
                print_options(options)
            elif dry_run:
                print_plan(name, listed(checkpoints), options, terminal)
            else:
                function(Call(listed(checkpoints), options, not no_plot, terminal), **more)

        checkpoints, config, *rest = inspect.signature(command, eval_str=True).parameters.values()
        command.__name__, command.__doc__ = name, function.__doc__
        command.__signature__ = inspect.Signature([checkpoints, config, *own, *rest])  # pyright: ignore[reportFunctionMemberAccess]
        return with_options(command, of, panels)

    return command_of

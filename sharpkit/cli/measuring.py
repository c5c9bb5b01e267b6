"""What the commands on checkpoints do alike: read options, run, tell the result, and end with the right exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from sharpkit.cli.shared import OUTPUT
from sharpkit.cli.terminal import EndedEarly, Terminal
from sharpkit.engine.documents import to_json

if TYPE_CHECKING:
    from sharpkit.cli.status import StatusProgress
    from sharpkit.commands.measure import Measured

R = TypeVar("R")
P = TypeVar("P", bound="StatusProgress")

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


def measured(progress: P, run: Callable[[P], Measured[R]]) -> Measured[R]:
    """Run a command with its progress on stderr, and what a user's own files print there too."""
    with progress, redirect_stdout(sys.stderr):
        return run(progress)


def tell(
    result: Measured[R],
    terminal: Terminal,
    line: Callable[[R], dict[str, str]],
    tables: Callable[[Mapping[str, R], Terminal], None],
    stopped: str = "what was found until then is above",
) -> None:
    """Write the result in the form that its reader wants, and end with its exit code.

    Args:
        result: What was found.
        terminal: Who reads it.
        line: A result as a row of values by column, for a pipe.
        tables: Writes all results for a person.
        stopped: What a reader should know where a signal stopped it.

    Raises:
        EndedEarly: If the exit code is not 0.
    """
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
    if result.exit_code:
        raise EndedEarly(result.exit_code)

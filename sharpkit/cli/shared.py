"""Options that every command has in the same words, and the reading of its configuration file."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from sharpkit.engine.config import TrainConfig, from_mapping
from sharpkit.errors import UsageError

C = TypeVar("C")

OUTPUT = "Output"
"""The panel of `--help` for where output goes."""

Checkpoints = Annotated[
    list[str], typer.Argument(metavar="CKPT...|-", help="Checkpoints or run directories; - reads them from stdin.")
]
ConfigFile = Annotated[
    str | None,
    typer.Option("--config", metavar="FILE|-", help="Options from a TOML or JSON file.", rich_help_panel=OUTPUT),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.", rich_help_panel=OUTPUT)]
NoPlot = Annotated[bool, typer.Option("--no-plot", help="No figure.", rich_help_panel=OUTPUT)]
NoProgress = Annotated[
    bool, typer.Option("--no-progress", help="Plain lines in place of a bar.", rich_help_panel=OUTPUT)
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only the result.", rich_help_panel=OUTPUT)]
NoColor = Annotated[bool, typer.Option("--no-color", help="No colour.", rich_help_panel=OUTPUT)]
Traceback = Annotated[bool, typer.Option("--traceback", help="Show where an error came from.", rich_help_panel=OUTPUT)]


def from_file(name: str, of: type[Any] = TrainConfig) -> dict[str, Any]:
    """Return the options in a file, checked by name and type.

    Args:
        name: The file, or - for stdin.
        of: The configuration that has the options.
    """
    from sharpkit.engine.rundir import read_config

    return from_mapping(read_config(Path(name)), name, of)


def options_of(of: type[C], config: str | None, given: Mapping[str, Any]) -> C:
    """Return the configuration: what is given over a file's options over the defaults."""
    stored = from_file(config, of) if config is not None else {}
    return of(**{**stored, **{k: v for k, v in given.items() if v is not None}})


def listed(checkpoints: list[str]) -> list[str]:
    """Return the paths; - stands for those on stdin, one a line."""
    if "-" not in checkpoints:
        return checkpoints
    if checkpoints.count("-") > 1:
        raise UsageError("- is given twice, allowed is once", "give one list on stdin")
    read = [line.strip() for line in sys.stdin if line.strip()]
    at = checkpoints.index("-")
    return checkpoints[:at] + read + checkpoints[at + 1 :]

"""Options that every command has in the same words, and the reading of its configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sharpkit.engine.config import TrainConfig, from_mapping

OUTPUT = "Output"
"""The panel of `--help` for where output goes."""

ConfigFile = Annotated[
    str | None,
    typer.Option("--config", metavar="FILE|-", help="Options from a TOML or JSON file.", rich_help_panel=OUTPUT),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.", rich_help_panel=OUTPUT)]
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

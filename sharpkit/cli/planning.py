"""What `--dry-run` and `--print-config` of the commands that measure checkpoints print in place of a result."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout

from sharpkit.cli.terminal import Terminal
from sharpkit.commands.checkpoint_config import CheckpointConfig
from sharpkit.engine.config import to_mapping
from sharpkit.engine.documents import document, to_json


def print_options(options: CheckpointConfig) -> None:
    """Print a configuration as TOML."""
    import tomli_w

    print(tomli_w.dumps(to_mapping(options)), end="")


def print_plan(command: str, names: list[str], options: CheckpointConfig, terminal: Terminal) -> None:
    """Load everything, and print what would be measured.

    Raises:
        SharpkitError: Of the first checkpoint that cannot be loaded.
    """
    from sharpkit.commands.checkpoints import planned

    with redirect_stdout(sys.stderr):
        rows = planned(names, options)
    if terminal.json:
        print(to_json(document(command, {"args": to_mapping(options), "plan": rows})), end="")
        return
    terminal.rows(list(rows[0]), [[str(value) for value in row.values()] for row in rows], "what would be measured")

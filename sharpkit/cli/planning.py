"""`--dry-run` and `--print-config` of the commands that measure checkpoints."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

import typer

from sharpkit.cli.shared import OUTPUT, listed, options_of
from sharpkit.cli.terminal import Terminal
from sharpkit.engine.config import options, to_mapping
from sharpkit.engine.documents import document, to_json

_ADDED = {
    "dry_run": (("--dry-run", "-n"), "Load everything, say what would be measured."),
    "print_config": (("--print-config",), "Print the options as TOML, for --config."),
}


def with_plan(function: Callable[..., Any], of: type[Any], name: str) -> Callable[..., Any]:
    """Give a command two options that answer in its place.

    Args:
        function: The command; takes `checkpoints`, `config`, `json` and `color` as the others do.
        of: The class of its options.
        name: Of the command.
    """
    signature = inspect.signature(function, eval_str=True)
    *own, rest = signature.parameters.values()

    def command(checkpoints: list[str], *, dry_run: bool, print_config: bool, **given: Any) -> None:
        if not (dry_run or print_config):
            function(checkpoints, **given)
            return
        config = options_of(of, given["config"], {k: v for k, v in given.items() if k in options(of)})
        terminal = Terminal(json=given["json"], quiet=given["quiet"], color=not given["no_color"])
        if print_config:
            _print_config(config)
        else:
            _print_plan(name, listed(checkpoints), config, terminal)

    added = [
        inspect.Parameter(
            key,
            inspect.Parameter.KEYWORD_ONLY,
            default=typer.Option(False, *flags, help=text, rich_help_panel=OUTPUT),
            annotation=bool,
        )
        for key, (flags, text) in _ADDED.items()
    ]
    command.__name__ = function.__name__
    command.__doc__ = function.__doc__
    command.__signature__ = signature.replace(parameters=[*own, *added, rest])  # pyright: ignore[reportFunctionMemberAccess]
    return command


def _print_config(config: Any) -> None:
    import tomli_w

    print(tomli_w.dumps(to_mapping(config)), end="")


def _print_plan(command: str, names: list[str], config: Any, terminal: Terminal) -> None:
    from sharpkit.commands.checkpoints import planned

    with redirect_stdout(sys.stderr):
        rows = planned(names, config)
    if terminal.json:
        print(to_json(document(command, {"args": to_mapping(config), "plan": rows})), end="")
        return
    terminal.rows(list(rows[0]), [[str(value) for value in row.values()] for row in rows], "what would be measured")

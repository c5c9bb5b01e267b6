"""The program: commands, and the one place where an error becomes a line and an exit code."""

from __future__ import annotations

import os
import pathlib
import sys
from collections.abc import Sequence
from traceback import print_exc
from typing import Annotated, Any, NoReturn

import typer
from typer.exceptions import Abort, TyperException

from sharpkit import __version__
from sharpkit.cli.compare import with_compare_options
from sharpkit.cli.graddiff import graddiff
from sharpkit.cli.gradnorm_qq import gradnorm_qq
from sharpkit.cli.hessian import hessian
from sharpkit.cli.landscape import landscape
from sharpkit.cli.ls import ls
from sharpkit.cli.options import with_options
from sharpkit.cli.plot import plot
from sharpkit.cli.processes import check_spreads, errors, hush, leave, speaker
from sharpkit.cli.sharpness import sharpness
from sharpkit.cli.signals import Terminated, end_on_sigterm
from sharpkit.cli.streams import make_messages_unfailing, silence_output_if_broken
from sharpkit.cli.terminal import EndedEarly
from sharpkit.cli.train import train
from sharpkit.commands.plot_config import PANELS, PlotConfig
from sharpkit.engine.documents import document, to_json
from sharpkit.errors import SharpkitError, one_line

app = typer.Typer(
    name="sharpkit",
    help="Sharpness-aware training of neural networks, and diagnostics of how sharp their minima are.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(with_options(train))
app.command()(with_compare_options())
for _measuring in (landscape, hessian, sharpness, graddiff, gradnorm_qq):
    app.command()(_measuring)
app.command()(with_options(plot, PlotConfig, PANELS))
app.command()(ls)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"sharpkit {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Sharpness-aware training of neural networks, and diagnostics of how sharp their minima are."""


def main() -> NoReturn:
    """Run the program on this process's arguments and exit."""
    end_on_sigterm()
    if sys.stderr is not None:  # pyright: ignore[reportUnnecessaryComparison]
        make_messages_unfailing()
    code = run(sys.argv[1:])
    silence_output_if_broken()
    leave(code)
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run the program and return its exit code.

    0 ok, 1 unexpected, 2 usage, 3 input missing or unfit, 4 diverged, 5 partial, 6 requirement not met, 130 and 143
    stopped by a signal, 141 closed pipe.

    Args:
        arguments: The words after the program's name.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller
            setattr(sys, name, pathlib.Path(os.devnull).open("r" if name == "stdin" else "w"))  # noqa: SIM115
    try:
        return _answer(arguments)
    except BrokenPipeError:
        # Whoever read the output is gone; the interpreter must not complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _answer(arguments: Sequence[str]) -> int:
    try:
        hush()
        check_spreads(_command(arguments))
        return _call(arguments)
    except EndedEarly as end:
        sys.stdout.flush()
        return end.exit_code
    except SharpkitError as error:
        return _tell(arguments, error, error.exit_code, error.code, error.message, error.hint)
    except TyperException as error:
        return _tell(arguments, error, error.exit_code, "usage", _misuse(error), f"see {_help(arguments)}")
    except (KeyboardInterrupt, Abort) as error:
        return _tell(arguments, error, 130, "interrupted", *_interrupted(arguments))
    except Terminated as error:
        return _tell(arguments, error, 143, "interrupted", *_interrupted(arguments))
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):  # typer's way to end when a write fails within a command
            raise stop.__context__ from None
        raise
    except BrokenPipeError:
        raise
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        return _tell(arguments, error, 3, "input", f"{error.strerror or one_line(error)}{place}", "give another place")
    except Exception as error:
        message = f"{type(error).__name__}: {one_line(error)}"
        return _tell(arguments, error, 1, "unexpected", message, "run again with --traceback and report it")


def _interrupted(arguments: Sequence[str]) -> tuple[str, str]:
    """Return message and hint where a signal came before there was anything to keep."""
    if _command(arguments) == "train":
        return "stopped before the next checkpoint", "--resume goes on from the last"
    return "stopped before the end", "start it again"


def _misuse(error: TyperException) -> str:
    """Return what is wrong with the words given, and the value, which typer leaves out and its cause knows."""
    text = one_line(error.format_message()).replace("Value error, ", "")
    cause: Any = error.__context__  # pydantic's ValidationError
    if not hasattr(cause, "errors"):
        return text
    given = repr(cause.errors()[0]["input"])
    return text if given in text else f"{text}, given {given}"


def _call(arguments: Sequence[str]) -> int:
    returned: Any = app(args=list(arguments) or ["--help"], standalone_mode=False)
    sys.stdout.flush()
    if returned == 130:  # typer's form of KeyboardInterrupt
        raise KeyboardInterrupt
    return returned if isinstance(returned, int) else 0


def _tell(arguments: Sequence[str], error: BaseException, exit_code: int, code: str, message: str, hint: str) -> int:
    """Write the error as one line to stderr, and as the document to stdout where JSON is wanted."""
    if "--traceback" in arguments:
        print_exc(file=errors())
    who = speaker(error)
    if who is not None:
        print(f"sharpkit: {who}{message}; {hint}" if hint else f"sharpkit: {who}{message}", file=errors(), flush=True)
    if "--json" in arguments:
        told = {"code": code, "message": message, "hint": hint}
        try:
            print(to_json(document(_command(arguments), {"error": told}, ok=False)), end="", flush=True)
        except BrokenPipeError:
            raise
        except OSError:  # the output itself is what went wrong, and the line is said
            return exit_code
    return exit_code


def _command(arguments: Sequence[str]) -> str:
    return next((word for word in arguments if not word.startswith("-")), "sharpkit")


def _help(arguments: Sequence[str]) -> str:
    command = _command(arguments)
    known = {c.name or getattr(c.callback, "__name__", "") for c in app.registered_commands}
    return f"sharpkit {command} --help" if command in known else "sharpkit --help"

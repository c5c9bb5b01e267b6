"""`sharpkit plot`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sharpkit.cli.measuring import options_of
from sharpkit.cli.shared import OUTPUT, ConfigFile, Json, NoColor, Quiet, Traceback, listed
from sharpkit.cli.terminal import EndedEarly, Terminal
from sharpkit.commands.plot_config import PlotConfig
from sharpkit.engine.documents import to_json

if TYPE_CHECKING:
    from sharpkit.figures.curves import Curve


def plot(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...|-", help="Run directories; - reads them from stdin.")],
    *,
    config: ConfigFile = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Figure .png, .pdf or .svg, or all points as .csv (default: curves.png in the runs' common folder).",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    no_color: NoColor = False,
    traceback: Traceback = False,
    **given: Any,
) -> None:
    """Draw training curves, probes and %SAM of runs; runs that differ only in their seed are averaged.

    Example: sharpkit plot runs/* --metric train_loss,val_acc
    """
    from sharpkit.commands import plot as command

    terminal = Terminal(json=json, quiet=quiet, color=not no_color)
    options = options_of(PlotConfig, config, given)
    result = command.run(listed(runs), options, out)
    for name, error in result.failed.items():
        terminal.say(f"warning: {name}: {error.message}")
    if terminal.json:
        print(to_json(result.document()), end="")
    else:
        header = ["group", "metric", "runs", "first", "last", "std", "lowest mean", "highest mean"]
        title = f"curves over {options.x}s, means over seeds" if options.x == "epoch" else f"curves over {options.x}"
        terminal.rows(header if terminal.person else [h.replace(" ", "_") for h in header],
                      [_row(c) for c in result.curves], title)  # fmt: skip
    for file in result.files:
        terminal.say(f"written: {file}")
    if result.exit_code:
        raise EndedEarly(result.exit_code)


def _row(curve: Curve) -> list[str]:
    finite = curve.mean[curve.mean == curve.mean]
    ends = [f"{finite[i]:.6g}" if len(finite) else "" for i in (0, -1)]
    spread = curve.std[-1]
    extremes = [f"{f():.6g}" if len(finite) else "" for f in (finite.min, finite.max)]
    runs = str(int(curve.count.max(initial=0)))
    return [curve.group, curve.metric, runs, *ends, f"{spread:.3g}" if spread == spread else "", *extremes]

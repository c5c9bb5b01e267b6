"""`sharpkit landscape`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sharpkit.cli.measuring import Call, checkpoint_command
from sharpkit.cli.shared import OUTPUT
from sharpkit.cli.terminal import Terminal
from sharpkit.commands.landscape_config import PANELS, LandscapeConfig

if TYPE_CHECKING:
    from sharpkit.diagnostics.surfaces.landscape_result import LandscapeResult


@checkpoint_command("landscape", LandscapeConfig, PANELS)
def landscape(
    call: Call[LandscapeConfig],
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="File for all: .png, .pdf, .svg, .html, .npz or .csv (default: CKPT-landscape.npz and .png).",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file of another surface.", rich_help_panel=OUTPUT)
    ] = False,
) -> None:
    """What the loss looks like around these weights: a surface or profile along filter-normalised directions.

    Example: sharpkit landscape runs/digits-cnn-sam-s0
    """
    from sharpkit.cli.landscape_progress import LandscapeProgress
    from sharpkit.commands import landscape as command

    options = call.options
    result = call.measured(command.run, LandscapeProgress, out=out, overwrite=overwrite)
    call.tell(
        result,
        lambda surface: _line(surface, options, result.files),
        lambda surfaces, terminal: _table(surfaces, options, terminal),
        stopped=f"the same command goes on from {result.files[0]}",
    )


def _line(surface: LandscapeResult, options: LandscapeConfig, files: Sequence[str]) -> dict[str, str]:
    """Return a row of tab-separated values by column."""
    from sharpkit.commands.landscape_files import level_of

    level = level_of(surface, options.level)
    return {
        "loss0": f"{surface.centre.loss:.8g}",
        "min": f"{surface.lowest:.8g}",
        "max": f"{surface.highest:.8g}",
        "mean_rise": f"{surface.mean_rise(options.radius):.6g}",
        "nan_cells": str(surface.nan_cells),
        "fraction_below": f"{surface.fraction_below(level):.6g}",
        "angle": f"{surface.plane.angle:.6g}" if surface.plane.angle == surface.plane.angle else "",
        "samples": str(surface.samples),
        "evaluations": str(surface.evaluations),
        "files": ",".join(files),
    }


def _table(results: Mapping[str, LandscapeResult], options: LandscapeConfig, terminal: Terminal) -> None:
    """Write one table of what is usually read, a column a checkpoint."""
    from sharpkit.commands.landscape_files import level_of

    surfaces = list(results.values())
    first = surfaces[0]
    radius, given = options.radius, options.level

    def row(name: str, cell: Callable[[LandscapeResult], str]) -> list[str]:
        return [name, *(cell(surface) for surface in surfaces)]

    rows = [
        row("loss at the centre", lambda s: f"{s.centre.loss:.5g} ± {s.centre.error:.2g}"),
        row("accuracy there", lambda s: f"{100 * s.centre.accuracy:.2f} %"),
        row("lowest, highest", lambda s: f"{s.lowest:.5g}, {s.highest:.5g}"),
        row(
            "mean rise at radius",
            lambda s: f"{s.mean_rise(radius):.5g} at {s.half_width / 2 if radius is None else radius:.3g}",
        ),
        row(
            "cells below a loss",
            lambda s: f"{100 * s.fraction_below(level_of(s, given)):.1f} % below {level_of(s, given):.4g}",
        ),
        row("cells, not finite", lambda s: f"{int(s.known.sum())}, {s.nan_cells}"),
    ]
    if not first.profile:
        rows.append(row("angle of the directions", lambda s: f"{s.plane.angle:.2f}°"))
    if any(s.check for s in surfaces):
        rows.append(row("slopes, exact", lambda s: _slopes(s, "exact", "slope")))
        rows.append(row("  from the surface", lambda s: _slopes(s, "fitted", "slope")))
        rows.append(row("curvatures, exact", lambda s: _slopes(s, "exact", "curvature")))
        rows.append(row("  from the surface", lambda s: _slopes(s, "fitted", "curvature")))
    if any(s.amp_error == s.amp_error for s in surfaces):
        rows.append(row(f"error by {first.amp}", lambda s: f"{100 * s.amp_error:.2g} %"))
    if any(s.convexity for s in surfaces):
        rows.append(row("|smallest / largest eigenvalue|", _ratios))
    rows.append(row("points evaluated", lambda s: str(s.evaluations)))
    norm = f"{first.plane.norm}-normalised " if first.plane.norm != "none" else ""
    title = (
        f"{norm}{first.plane.kind} directions, {first.samples} samples, {first.parameters:,} parameters, batch norm by "
        f"{'stored' if first.bn_mode == 'eval' else 'recomputed'} statistics, no augmentation"
    )
    terminal.rows(["", *results], rows, title)


def _slopes(surface: LandscapeResult, side: str, name: str) -> str:
    if surface.check is None:
        return ""
    return ", ".join(f"{getattr(s, name):.4g}" for s in getattr(surface.check, side))


def _ratios(surface: LandscapeResult) -> str:
    """Return the median and the largest ratio over the points."""
    if surface.convexity is None:
        return ""
    ratios = sorted(value for value in surface.convexity.ratio.ravel().tolist() if value == value)
    return f"median {ratios[len(ratios) // 2]:.3g}, at most {ratios[-1]:.3g}" if ratios else "not finite"

"""`sharpkit hessian`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sharpkit.cli.measuring import Call, checkpoint_command
from sharpkit.cli.shared import OUTPUT
from sharpkit.cli.terminal import Terminal
from sharpkit.commands.hessian_config import PANELS, HessianConfig

if TYPE_CHECKING:
    from sharpkit.commands.hessian_files import Spectra
    from sharpkit.diagnostics.curvature.spectrum import SpectrumResult


@checkpoint_command("hessian", HessianConfig, PANELS)
def hessian(
    call: Call[HessianConfig],
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="File for all: .png, .pdf, .svg, .npz or .csv (default: CKPT-hessian.npz and .png).",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
) -> None:
    """How sharp is this minimum: largest eigenvalues, spectral density and trace of the loss's Hessian.

    Example: sharpkit hessian runs/digits-cnn-sam-s0
    """
    from sharpkit.cli.spectrum_progress import SpectrumProgress
    from sharpkit.commands import hessian as command

    result = call.measured(command.run, SpectrumProgress, out=out)
    call.tell(result, _line, _tables, stopped="what was found until then is above, with its residuals")


def _line(spectra: Spectra) -> dict[str, str]:
    """Return a row of tab-separated values by column."""
    spectrum = spectra.whole
    row = {f"lambda{i}": f"{value:.8g}" for i, value in enumerate(spectrum.eigenvalues, 1)}
    row["ratio"] = f"{spectrum.ratio:.6g}"
    trace = spectrum.trace
    row |= {"trace": f"{trace.value:.6g}" if trace else "", "trace_error": f"{trace.error:.3g}" if trace else ""}
    row |= {f"residual{i}": f"{value:.3g}" for i, value in enumerate(spectrum.residuals, 1)}
    if (spectrum.errors == spectrum.errors).any():
        row |= {f"error{i}": f"{value:.3g}" for i, value in enumerate(spectrum.errors, 1)}
    row["converged"] = f"{int(spectrum.converged.sum())}/{len(spectrum.converged)}"
    row |= {"loss": f"{spectrum.loss:.6g}", "samples": str(spectrum.samples), "products": str(spectrum.products)}
    return row


def _tables(results: Mapping[str, Spectra], terminal: Terminal) -> None:
    """Write one table of what is usually read, a column a checkpoint, and one of the layers."""
    spectra = [found.whole for found in results.values()]
    first = spectra[0]
    most = max(len(s.eigenvalues) for s in spectra)
    rows = [[f"lambda {i + 1}", *(_value(s, i) for s in spectra)] for i in range(most)]
    if any(s.ratio == s.ratio for s in spectra):
        rows.append(["lambda 1 / lambda 5", *(f"{s.ratio:.4g}" for s in spectra)])
    ends = max(len(s.smallest.values) if s.smallest else 0 for s in spectra)
    rows += [
        [f"smallest {i}", *(f"{s.smallest.values[-i]:.5g}" if s.smallest else "" for s in spectra)]
        for i in range(1, ends + 1)
    ]
    if any(s.trace for s in spectra):
        rows.append(["trace", *(f"{s.trace.value:.5g} ± {s.trace.error:.2g}" if s.trace else "" for s in spectra)])
        rows.append(
            ["95 % interval", *("{:.5g} to {:.5g}".format(*s.trace.interval) if s.trace else "" for s in spectra)]
        )
    if any(s.density for s in spectra):
        rows.append(["width of the Gaussian", *(f"{s.density.sigma:.3g}" if s.density else "" for s in spectra)])
    rows.append(["loss", *(f"{s.loss:.5g}" for s in spectra)])
    rows.append(["products", *(str(s.products) for s in spectra)])
    title = (
        f"{first.kind}, {first.samples} samples, {first.parameters:,} parameters, batch norm in {first.bn_mode} mode, "
        f"no augmentation, {first.dtype}"
    )
    terminal.rows(["", *results], rows, title)
    for name, found in results.items():
        if found.layers:
            header = ["layer", "parameters", "lambda 1", "lambda 2"]
            body = [
                [layer, f"{s.parameters:,}", *(_value(s, i) if i < len(s.eigenvalues) else "" for i in (0, 1))]
                for layer, s in found.layers.items()
            ]
            terminal.rows(header, body, f"diagonal blocks of {name}")


def _value(spectrum: SpectrumResult, i: int) -> str:
    """Return an eigenvalue with its residual, or that it has not converged."""
    if i >= len(spectrum.eigenvalues):
        return ""
    error = spectrum.errors[i]
    bar = f" ± {error:.2g}" if error == error else ""
    state = f"residual {spectrum.residuals[i]:.1g}" if spectrum.converged[i] else "not converged"
    return f"{spectrum.eigenvalues[i]:.5g}{bar} ({state})"

"""Spectral densities of one or several checkpoints on common axes, as figure 5 of the Sparse SAM paper shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sharpkit.diagnostics.curvature.density import Density, broaden
from sharpkit.diagnostics.curvature.spectrum import SpectrumResult
from sharpkit.figures import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FLOOR = 1e-6
"""The lowest density shown, relative to the highest, unless a single eigenvalue is lower."""


def spectrum(results: Mapping[str, SpectrumResult]) -> Figure:
    """Draw a panel for every result: its density on a logarithmic scale, mean and band over runs, outliers marked.

    All panels have the same axes and the same broadening, the widest that was chosen, so that heights can be compared.

    Args:
        results: By name; those without a density show their eigenvalues alone.

    Raises:
        InputError: If matplotlib is not installed.
    """
    shown = _common(results)
    figure, grid = style.panels(len(results), 1, width=6.4, height=0.6 + 2.1 * len(results), sharex=True, sharey=True)
    axes = grid[:, 0]
    highest = max((float(density.mean.max()) for density in shown.values()), default=1.0)
    single = [0.05 / (results[name].parameters * density.sigma) for name, density in shown.items()]
    floor = min([highest * _FLOOR, *single])
    for i, (axis, (name, result)) in enumerate(zip(axes, results.items(), strict=True)):
        colour = style.colour(i)
        if name in shown:
            _draw_density(axis, shown[name], colour, floor)
            axis.set_yscale("log")
            axis.set_ylim(floor, 3 * highest)
            axis.set_ylabel("density")
        else:
            axis.set_yticks([])
        for k, value in enumerate(result.eigenvalues):
            axis.axvline(float(value), 0, 0.06, color="black", linewidth=1.2, label="eigenvalues" if k == 0 else None)
        axis.set_title(_title(name, result), fontsize=style.TITLE, loc="left")
    axes[-1].set_xlabel(f"eigenvalue of the {_NAMES[next(iter(results.values())).kind]}")
    return figure


_NAMES = {"hessian": "Hessian", "ggn": "generalised Gauss-Newton matrix", "fisher": "empirical Fisher matrix"}


def _common(results: Mapping[str, SpectrumResult]) -> dict[str, Density]:
    """Return all densities broadened alike on one grid."""
    own = {name: r.density for name, r in results.items() if r.density is not None}
    if not own:
        return {}
    sigma = max(density.sigma for density in own.values())
    low = min(float(n[0]) for density in own.values() for n in density.nodes) - 5 * sigma
    high = max(float(n[-1]) for density in own.values() for n in density.nodes) + 5 * sigma
    grid = np.linspace(low, high, 2048)
    return {
        name: broaden(list(zip(density.nodes, density.weights, strict=True)), sigma, grid)
        for name, density in own.items()
    }


def _draw_density(axis: Any, density: Density, colour: str, floor: float) -> None:
    mean = np.maximum(density.mean, floor)
    axis.fill_between(density.grid, floor, mean, color=colour, alpha=0.25, linewidth=0)
    axis.plot(density.grid, mean, color=colour, linewidth=1.2)
    if len(density.nodes) > 1:
        upper, lower = density.mean + density.spread, np.maximum(density.mean - density.spread, floor)
        axis.fill_between(density.grid, lower, np.maximum(upper, floor), color=colour, alpha=0.35, linewidth=0)
    axis.annotate(
        f"Gaussian of width {density.sigma:.2g}, {len(density.nodes)} run{'s' * (len(density.nodes) > 1)}",
        (0.99, 0.9), xycoords="axes fraction", ha="right", fontsize=style.SMALL, color=style.GREY,
    )  # fmt: skip


def _title(name: str, result: SpectrumResult) -> str:
    parts = [name, rf"$\lambda_1$ = {result.eigenvalues[0]:.4g}"]
    if result.ratio == result.ratio:
        parts.append(rf"$\lambda_1/\lambda_5$ = {result.ratio:.3g}")
    if result.trace is not None:
        parts.append(rf"trace = {result.trace.value:.4g} $\pm$ {result.trace.error:.2g}")
    return ",  ".join(parts)

"""Spectral densities of one or several checkpoints on common axes, as figure 5 of the Sparse SAM paper shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sharpkit.diagnostics.curvature.density import Density, broaden, grid_of
from sharpkit.diagnostics.curvature.spectrum import SpectrumResult
from sharpkit.figures import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FLOOR = 1e-6
"""The lowest density shown, relative to the highest, unless a single eigenvalue is lower."""


def spectrum(results: Mapping[str, SpectrumResult]) -> Figure:
    """Draw a panel for every result: its density on a logarithmic scale, mean and band over runs, eigenvalues marked.

    The floor is low enough for the mass 1/P of one eigenvalue to be seen. All panels have the same axes and the same
    broadening, the widest that was chosen, so that heights can be compared.

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
        _draw_ticks(axis, result)
        axis.set_title(_title(name, result), fontsize=style.TITLE, loc="left")
    _legend(figure, axes)
    axes[-1].set_xlabel(f"eigenvalue of the {_NAMES[next(iter(results.values())).kind]}")
    return figure


_NAMES = {"hessian": "Hessian", "ggn": "generalised Gauss-Newton matrix", "fisher": "empirical Fisher matrix"}


def _common(results: Mapping[str, SpectrumResult]) -> dict[str, Density]:
    """Return all densities broadened alike on one grid."""
    own = {name: r.density for name, r in results.items() if r.density is not None}
    if not own:
        return {}
    sigma = max(density.sigma for density in own.values())
    measures = {name: list(zip(density.nodes, density.weights, strict=True)) for name, density in own.items()}
    grid = grid_of([pair for pairs in measures.values() for pair in pairs], sigma, points=2048)
    return {name: broaden(pairs, sigma, grid, exact=own[name].exact) for name, pairs in measures.items()}


def _draw_density(axis: Any, density: Density, colour: str, floor: float) -> None:
    mean = np.maximum(density.mean, floor)
    axis.fill_between(density.grid, floor, mean, color=colour, alpha=0.25, linewidth=0)
    axis.plot(density.grid, mean, color=colour, linewidth=1.2, label="density")
    runs, known = len(density.nodes), len(density.exact)
    if runs > 1:
        upper, lower = density.mean + density.error, np.maximum(density.mean - density.error, floor)
        axis.fill_between(
            density.grid, lower, np.maximum(upper, floor), color=colour, alpha=0.35, linewidth=0,
            label=r"$\pm$ 1 standard error over the runs",
        )  # fmt: skip
    rest = f"the rest from {runs} run{'s' * (runs > 1)}" if known < len(density.nodes[0]) else "no others"
    axis.annotate(
        f"Gaussian of width {density.sigma:.2g}, {known} eigenvalue{'s' * (known != 1)} exact, {rest}",
        (0.99, 0.9), xycoords="axes fraction", ha="right", fontsize=style.SMALL, color=style.GREY,
    )  # fmt: skip


def _draw_ticks(axis: Any, result: SpectrumResult) -> None:
    """Mark the eigenvalues that were computed; those that have not converged are dotted."""
    ends = [(result.eigenvalues, result.converged)]
    if result.smallest is not None:
        ends.append((result.smallest.values, result.smallest.converged))
    for values, converged in ends:
        for value, good in zip(values.tolist(), converged.tolist(), strict=True):
            axis.axvline(
                value, 0, 0.06, color="black", linewidth=1.2, linestyle="-" if good else ":",
                label="computed eigenvalues" if good else "eigenvalues that have not converged",
            )  # fmt: skip


def _legend(figure: Figure, axes: Any) -> None:
    """Put one legend above all panels, each label once."""
    entries: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    figure.legend(
        list(entries.values()), list(entries), loc="outside upper left", ncols=len(entries), fontsize=style.SMALL,
        frameon=False,
    )  # fmt: skip


def _title(name: str, result: SpectrumResult) -> str:
    parts = [name, rf"$\lambda_1$ = {result.eigenvalues[0]:.4g}"]
    if result.ratio == result.ratio:
        parts.append(rf"$\lambda_1/\lambda_5$ = {result.ratio:.3g}")
    if result.trace is not None:
        parts.append(rf"trace = {result.trace.value:.4g} $\pm$ {result.trace.error:.2g}")
    return ",  ".join(parts)

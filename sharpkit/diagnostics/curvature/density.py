"""The density of a spectrum by stochastic Lanczos quadrature."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from sharpkit.diagnostics.curvature.eigenvalues import Watch
from sharpkit.diagnostics.curvature.lanczos import Array, Lanczos
from sharpkit.diagnostics.curvature.operators import Operator
from sharpkit.errors import UsageError

_POINTS = 1024
_MARGIN = 5.0
"""Widths of the Gaussian that the grid reaches beyond the outermost nodes."""


@dataclass(frozen=True)
class Density:
    """An estimate of the density of eigenvalues, phi(t) = 1/P sum_i delta(t - lambda_i), broadened by a Gaussian.

    Args:
        nodes: One array (m,) a run; the quadrature nodes.
        weights: One array (m,) a run; each sums to 1.
        sigma: The standard deviation of the Gaussian, in units of the eigenvalues.
        grid: (G,); where the density is given.
        mean: (G,); the mean over the runs.
        spread: (G,); the standard deviation over the runs; NaN for one run.
    """

    nodes: tuple[Array, ...]
    weights: tuple[Array, ...]
    sigma: float
    grid: Array
    mean: Array
    spread: Array


def quadrature(lanczos: Lanczos) -> tuple[Array, Array]:
    """Return nodes and weights, (m,) each, of the spectral measure of the vector that the basis starts with.

    The nodes are the eigenvalues of T and the weights the squared first entries of its eigenvectors (Golub and Welsch,
    1969). The weights sum to 1.

    Raises:
        UsageError: If the basis was restarted or is of blocks, so that T no longer belongs to one vector.
    """
    if lanczos.restarted or lanczos.block > 1:
        raise UsageError("the density needs a Lanczos basis of one vector, not restarted", "raise --memory, --block 1")
    values, vectors = np.linalg.eigh(lanczos.projected)
    return values, vectors[0] ** 2


def extend(lanczos: Lanczos, steps: int, watch: Watch | None = None) -> bool:
    """Take Lanczos steps up to a number, fewer where the space is exhausted; return whether `watch` let it."""
    largest = 0.0
    while lanczos.steps < steps and not lanczos.complete and not lanczos.full:
        lanczos.step()
        if watch is not None:
            if lanczos.steps <= 1 or lanczos.steps % 10 == 0:
                largest = float(np.linalg.eigvalsh(lanczos.projected)[-1])
            if not watch(lanczos.operator.products, largest):
                return False
    return True


def further_runs(
    operator: Operator, steps: int, runs: int, *, rows: int, generator: torch.Generator, watch: Watch | None = None
) -> list[tuple[Array, Array]]:
    """Return nodes and weights from further starting vectors; those whose runs were not stopped."""
    measures: list[tuple[Array, Array]] = []
    for _ in range(runs):
        lanczos = Lanczos(operator, rows=rows, generator=generator)
        if not extend(lanczos, steps, watch):
            break
        measures.append(quadrature(lanczos))
    return measures


def broaden(measures: list[tuple[Array, Array]], sigma: float | None = None, grid: Array | None = None) -> Density:
    """Return the density that quadratures of several runs give (Lin, Saad and Yang, 2016).

    phi(t) = mean over runs of sum_j w_j N(t; theta_j, sigma^2). Unless it is given, sigma is the width of the
    spectrum over twice the number of nodes: about their distance, so that they merge where there are eigenvalues
    between them.

    Args:
        measures: Nodes and weights, one pair a run.
        sigma: Standard deviation of the Gaussian; None chooses.
        grid: (G,); None lays 1024 points over the spectrum.
    """
    nodes, weights = tuple(n for n, _ in measures), tuple(w for _, w in measures)
    low, high = min(float(n[0]) for n in nodes), max(float(n[-1]) for n in nodes)
    if sigma is None:
        width = high - low
        sigma = width / (2 * max(len(n) for n in nodes)) if width > 0 else max(abs(high), 1.0) * 1e-3
    if grid is None:
        grid = np.linspace(low - _MARGIN * sigma, high + _MARGIN * sigma, _POINTS)
    scale = 1 / (sigma * np.sqrt(2 * np.pi))
    each = np.stack(
        [scale * np.exp(-0.5 * ((grid[:, None] - n) / sigma) ** 2) @ w for n, w in zip(nodes, weights, strict=True)]
    )
    spread = each.std(axis=0, ddof=1) if len(each) > 1 else np.full(len(grid), np.nan)
    return Density(nodes, weights, sigma, grid, each.mean(axis=0), spread)

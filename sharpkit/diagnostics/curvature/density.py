"""The density of a spectrum: known eigenvalues exactly, the rest by stochastic Lanczos quadrature."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sharpkit.diagnostics import reductions
from sharpkit.diagnostics.curvature.eigenvalues import Eigenpairs, Watch
from sharpkit.diagnostics.curvature.lanczos import Array, Lanczos
from sharpkit.diagnostics.curvature.operators import Draw, Operator, Term
from sharpkit.errors import UsageError

_POINTS = 1024
_MARGIN = 5.0
"""Widths of the Gaussian that the grid reaches beyond the outermost nodes."""

_SPACING = 0.5
"""Distance of grid points, in widths of the Gaussian, beyond which the grid is refined around the nodes."""

_AROUND = np.linspace(-8, 8, 65)
"""Points around a node where the grid is refined, in widths; the last are low enough to be joined to any next one."""

_EQUAL = 1e-12
"""Nodes that differ by less, relative to the largest magnitude, are one eigenvalue and rounding."""

_INDEPENDENT = 0.5
"""Length of a unit vector beside the others below which it is one of them once more."""


@dataclass(frozen=True)
class Density:
    """An estimate of the density of eigenvalues, phi(t) = 1/P sum_i delta(t - lambda_i), broadened by a Gaussian.

    Args:
        nodes: One array (m,) per run, ascending: the quadrature nodes, with the eigenvalues in `exact` among them.
        weights: One array (m,) per run; each sums to 1, and an eigenvalue in `exact` has 1/P.
        exact: (k,), descending; the eigenvalues that are known, each counted once per copy. Only the rest, of the
            weight (P - k) / P, is estimated. Empty where the density is from another program.
        sigma: The standard deviation of the Gaussian, in units of the eigenvalues.
        grid: (G,); where the density is given.
        mean: (G,); the mean over the runs.
        spread: (G,); the standard deviation over the runs; NaN for one run, 0 where all eigenvalues are known.
    """

    nodes: tuple[Array, ...]
    weights: tuple[Array, ...]
    exact: Array
    sigma: float
    grid: Array
    mean: Array
    spread: Array

    @property
    def error(self) -> Array:
        """(G,); the standard error of `mean` over the starting vectors; NaN for one run."""
        return self.spread / math.sqrt(len(self.nodes))


class Deflated(Operator):
    """(I - U^T U) A (I - U^T U) on vectors that are orthogonal to U: A without some of its eigenvectors.

    Args:
        operator: A; products count as its own.
        rows: U, (k, P), orthonormal.
    """

    def __init__(self, operator: Operator, rows: Tensor) -> None:
        super().__init__(operator.size, operator.dtype, operator.device, operator.comm)
        self.products = operator.products
        self._operator, self._rows = operator, rows

    def terms(self, draw: Draw) -> Iterator[Term]:
        """Yield the terms of A, each without its part along U."""
        for term in self._operator.terms(draw):
            reductions.orthogonalise_(term.image, self._rows)
            yield term

    def product(self, vector: Tensor) -> Tensor:
        """Return the product with a vector that is orthogonal to U."""
        image = self._operator.product(vector)
        reductions.orthogonalise_(image, self._rows)
        self.products = self._operator.products
        return image

    def start(self, generator: torch.Generator) -> Tensor:
        """Return a Gaussian vector in the complement of U, (P,)."""
        drawn = torch.randn(self.size, dtype=torch.float64, generator=generator)
        vector = drawn.to(dtype=self.dtype, device=self.device)
        reductions.orthogonalise_(vector, self._rows)
        return vector


def deflated(operator: Operator, pairs: Eigenpairs) -> tuple[Deflated, Array]:
    """Return A without the converged ones of some eigenpairs, and their eigenvalues, from the largest down."""
    rows = torch.empty(len(pairs.values), operator.size, dtype=operator.dtype, device=operator.device)
    values = list[float]()
    for value, vector, converged in zip(pairs.values, pairs.vectors, pairs.converged, strict=True):
        if not converged:
            continue
        rest, held = vector.to(rows), rows[: len(values)]
        rest = rest / reductions.norm(rest)
        reductions.orthogonalise_(rest, held)
        length = float(reductions.norm(rest))
        if length < _INDEPENDENT:  # both ends of a small spectrum may hold the same eigenvector
            continue
        rows[len(values)] = rest / length
        values.append(float(value))
    rows = rows[: len(values)]
    operator.comm.broadcast_([rows])
    return Deflated(operator, rows), np.sort(np.array(values))[::-1].copy()


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
    while lanczos.steps < steps and not lanczos.complete and not lanczos.full:
        lanczos.step()
        if watch is not None and not watch(lanczos.operator.products, math.nan):
            return False
    return True


def further_runs(
    operator: Operator, steps: int, runs: int, *, rows: int, generator: torch.Generator, watch: Watch | None = None
) -> list[tuple[Array, Array]]:
    """Return nodes and weights from random starting vectors.

    Of runs that are stopped only the first one is of use, as far as it came.
    """
    measures: list[tuple[Array, Array]] = []
    for _ in range(runs):
        start = operator.start(generator) if isinstance(operator, Deflated) else None
        lanczos = Lanczos(operator, rows=rows, generator=generator, start=start)
        done = extend(lanczos, steps, watch)
        if done or (not measures and lanczos.steps):
            measures.append(quadrature(lanczos))
        if not done:
            break
    return measures


def joined(measures: list[tuple[Array, Array]], exact: Array, size: int) -> list[tuple[Array, Array]]:
    """Return the measures of a whole spectrum: known eigenvalues of weight 1/P each, and what was found of the rest.

    Args:
        measures: Nodes and weights of the rest, one pair per run; each sums to 1.
        exact: (k,); the known eigenvalues.
        size: P.
    """
    share = (size - len(exact)) / size
    alone = np.full(len(exact), 1 / size)
    whole: list[tuple[Array, Array]] = []
    for nodes, weights in measures or [(np.empty(0), np.empty(0))]:
        places = np.concatenate([nodes, exact])
        order = np.argsort(places, kind="stable")
        whole.append((places[order], np.concatenate([share * weights / max(weights.sum(), 1e-300), alone])[order]))
    return whole


def chosen_width(measures: list[tuple[Array, Array]]) -> float:
    """Return the width of the spectrum over twice the number of nodes: about their distance.

    So nodes merge where there are eigenvalues between them. A single point gets a thousandth of its magnitude.
    """
    low, high = _ends(measures)
    if high - low <= _EQUAL * max(abs(low), abs(high)):
        return max(abs(high), 1.0) * 1e-3
    return (high - low) / (2 * max(len(n) for n, _ in measures))


def grid_of(measures: list[tuple[Array, Array]], sigma: float, points: int = _POINTS) -> Array:
    """Return a grid over the spectrum on which every Gaussian of a width can be seen and integrated.

    Args:
        measures: Nodes and weights, one pair per run.
        sigma: The width.
        points: Equidistant points; where they are too far apart, further ones lie around every node.
    """
    low, high = _ends(measures)
    grid = np.linspace(low - _MARGIN * sigma, high + _MARGIN * sigma, points)
    if grid[1] - grid[0] <= _SPACING * sigma:
        return grid
    places = np.unique(np.concatenate([nodes for nodes, _ in measures]))
    return np.unique(np.concatenate([grid, (places[:, None] + sigma * _AROUND).ravel()]))


def broaden(
    measures: list[tuple[Array, Array]],
    sigma: float | None = None,
    grid: Array | None = None,
    *,
    exact: Array | None = None,
) -> Density:
    """Return the density that quadratures of several runs give (Lin, Saad and Yang, 2016).

    phi(t) = mean over runs of sum_j w_j N(t; theta_j, sigma^2).

    Args:
        measures: Nodes and weights, one pair per run.
        sigma: Standard deviation of the Gaussian; None chooses, see `chosen_width`.
        grid: (G,); None lays at least 1024 points over the spectrum.
        exact: (k,); which eigenvalues among the nodes are known.
    """
    nodes, weights = tuple(n for n, _ in measures), tuple(w for _, w in measures)
    exact = np.empty(0) if exact is None else exact
    sigma = chosen_width(measures) if sigma is None else sigma
    grid = grid_of(measures, sigma) if grid is None else grid
    scale = 1 / (sigma * np.sqrt(2 * np.pi))
    each = np.stack(
        [scale * np.exp(-0.5 * ((grid[:, None] - n) / sigma) ** 2) @ w for n, w in zip(nodes, weights, strict=True)]
    )
    single = 0.0 if len(exact) and len(exact) == len(nodes[0]) else math.nan
    spread = each.std(axis=0, ddof=1) if len(each) > 1 else np.full(len(grid), single)
    return Density(nodes, weights, exact, sigma, grid, each.mean(axis=0), spread)


def _ends(measures: list[tuple[Array, Array]]) -> tuple[float, float]:
    return min(float(n.min()) for n, _ in measures), max(float(n.max()) for n, _ in measures)

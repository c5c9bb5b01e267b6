"""Stochastic Lanczos quadrature against spectra that are known."""

import numpy as np
import pytest
import torch

from sharpkit.diagnostics.curvature.density import broaden, extend, further_runs, quadrature
from sharpkit.diagnostics.curvature.operators import Matrix
from sharpkit.errors import UsageError
from tests.diagnostics.support import Diagonal, basis_of, rotated


def runs_of(operator, steps, runs):
    generator = torch.Generator().manual_seed(0)
    return further_runs(operator, steps, runs, rows=500, generator=generator)


def test_weights_sum_to_one_and_moments_are_those_of_the_matrix():
    values = np.linspace(-1, 4, 300)
    measures = runs_of(Matrix(rotated(values)), 30, 20)
    for _, weights in measures:
        assert weights.sum() == pytest.approx(1, abs=1e-12)
    first = np.mean([w @ n for n, w in measures])
    second = np.mean([w @ n**2 for n, w in measures])
    assert first == pytest.approx(values.mean(), abs=0.05)
    assert second == pytest.approx((values**2).mean(), abs=0.2)


def test_wishart_matrices_have_the_density_of_marchenko_and_pastur():
    count, ratio = 1500, 0.5
    generator = torch.Generator().manual_seed(0)
    factor = torch.randn(count, int(count / ratio), generator=generator, dtype=torch.float64)
    density = broaden(runs_of(Matrix(factor @ factor.T / factor.shape[1]), 60, 8), sigma=0.05)
    low, high = (1 - ratio**0.5) ** 2, (1 + ratio**0.5) ** 2
    fine = np.linspace(low, high, 4001)[1:-1]
    law = np.sqrt((high - fine) * (fine - low)) / (2 * np.pi * ratio * fine)
    law /= law.sum()
    kernel = np.exp(-0.5 * ((density.grid[:, None] - fine) / 0.05) ** 2) / (0.05 * np.sqrt(2 * np.pi))
    assert np.abs(density.mean - kernel @ law).max() < 0.05
    assert np.trapezoid(density.mean, density.grid) == pytest.approx(1, abs=1e-3)
    assert np.nanmax(density.spread) < 0.1


def test_outliers_have_one_node_each_and_the_share_that_they_have():
    entries = torch.cat([torch.tensor([50.0, 40, 30]), torch.linspace(-1, 1, 997)]).double()
    measures = runs_of(Diagonal(entries), 100, 60)
    for nodes, _ in measures:
        np.testing.assert_allclose(nodes[nodes > 2], [30, 40, 50], rtol=1e-9)
    share = np.mean([weights[nodes > 2].sum() for nodes, weights in measures])
    assert share == pytest.approx(0.003, abs=0.001)


def test_a_small_space_gives_the_exact_measure():
    lanczos = basis_of(Matrix(rotated([1.0, 2, 3])))
    extend(lanczos, 100)
    nodes, weights = quadrature(lanczos)
    np.testing.assert_allclose(nodes, [1, 2, 3], rtol=1e-12)
    assert weights.sum() == pytest.approx(1)


def test_the_width_is_chosen_and_one_value_has_a_density():
    measures = runs_of(Matrix(torch.eye(5, dtype=torch.float64)), 10, 1)
    density = broaden(measures)
    assert density.sigma > 0
    assert np.isnan(density.spread).all()
    assert np.isfinite(density.mean).all()
    wide = broaden(runs_of(Matrix(rotated(np.linspace(0, 8, 50))), 20, 1))
    assert wide.sigma == pytest.approx(8 / 40, rel=0.05)


def test_a_restarted_basis_gives_no_density():
    lanczos = basis_of(Matrix(rotated([1.0, 2, 3])), block=2)
    with pytest.raises(UsageError, match="one vector"):
        quadrature(lanczos)

"""Stochastic Lanczos quadrature against spectra that are known."""

import numpy as np
import pytest
import torch
from scipy import stats

from sharpkit.diagnostics.curvature.analysis import Wanted, analyse
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


SPECTRA = {
    "outliers": [50.0, 40, 30, 20, 10, *np.linspace(-1, 1, 195)],
    "a double eigenvalue of which one copy is asked for": [50.0, 40, 30, 20, 10, 10, *np.linspace(-1, 1, 194)],
    "low rank": [5.0, 3, *np.zeros(198)],
    "copies at the top": [7.0, 7, 7, *np.linspace(0, 1, 197)],
    "far below zero": [2.0, 1.9, *np.linspace(-0.1, 0.1, 196), -8, -9],
}


def analysed(values, *, seed=0, **wanted):
    operator = Matrix(rotated(values))
    asked = Wanted(**{"density": True, "steps": 30, "tol": 1e-9, "seed": seed, **wanted})
    return analyse(operator, asked, sizes=[operator.size], rows=500)


def mass(density, value, width):
    """The integral of the density around a value, by the trapezoidal rule on its own grid."""
    near = np.abs(density.grid - value) <= width
    return np.trapezoid(density.mean[near], density.grid[near])


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("runs", [1, 3])
def test_every_converged_eigenvalue_has_its_mass(name, runs):
    values = np.array(SPECTRA[name])
    for seed in range(3):
        found = analysed(values, seed=seed, runs=runs, bottom=2, sigma=0.01)
        ends = np.concatenate([found.top.values, found.bottom.values])
        assert found.top.converged.all()
        assert found.bottom.converged.all()
        np.testing.assert_allclose(found.density.exact, np.sort(ends)[::-1], rtol=1e-9, atol=1e-9)
        for value in ends:
            copies = (np.abs(ends - value) < 0.05).sum()
            assert mass(found.density, value, 0.05) >= copies * (1 - 1e-3) / len(values)
        assert np.trapezoid(found.density.mean, found.density.grid) == pytest.approx(1, abs=1e-3)
        for nodes, weights in zip(found.density.nodes, found.density.weights, strict=True):
            assert weights.sum() == pytest.approx(1, abs=1e-12)
            assert (np.diff(nodes) >= 0).all()


@pytest.mark.parametrize("name", SPECTRA)
def test_moments_are_those_of_the_dense_matrix(name):
    """Within four standard errors of the mean over independent runs, whatever the multiplicities."""
    values = np.array(SPECTRA[name])
    density = analysed(values, runs=20, bottom=2).density
    for power in (1, 2):
        each = [w @ n**power for n, w in zip(density.nodes, density.weights, strict=True)]
        error = np.std(each, ddof=1) / len(each) ** 0.5
        exact = (values**power).mean()
        assert np.mean(each) == pytest.approx(exact, abs=4 * error + 1e-9 * abs(exact))
        alone = [w @ n**power for n, w in runs_of(Matrix(rotated(values)), 30, 20)]
        assert np.std(each) < np.std(alone) / 2 or np.std(each) < 1e-3 * abs(exact)


def test_a_further_copy_keeps_the_mass_that_it_has_on_average():
    values = SPECTRA["a double eigenvalue of which one copy is asked for"]
    density = analysed(values, runs=100).density
    shares = [w[np.abs(n - 10) < 0.5].sum() for n, w in zip(density.nodes, density.weights, strict=True)]
    assert min(shares) >= 1 / 200 - 1e-9
    assert np.mean(shares) == pytest.approx(2 / 200, abs=4 * np.std(shares) / 10)


def test_a_run_has_as_many_nodes_as_asked_for_the_exact_ones_among_them():
    density = analysed(SPECTRA["outliers"], runs=2).density
    assert [len(n) for n in density.nodes] == [30, 30]
    for nodes, weights in zip(density.nodes, density.weights, strict=True):
        np.testing.assert_allclose(weights[nodes > 5], 1 / 200, rtol=1e-12)


def stopped(products, **wanted):
    operator = Matrix(rotated(SPECTRA["outliers"]))
    asked = Wanted(density=True, steps=60, runs=3, copies=False, tol=1e-6, **wanted)
    return analyse(operator, asked, sizes=[200], rows=500, watch=lambda done, _: done < products)


def test_a_density_that_is_stopped_says_what_it_is_of():
    whole = stopped(10_000)
    first = stopped(50)
    assert (len(first.density.nodes), first.complete) == (1, False)
    assert "the density is of 1 of 3 runs" in first.notes
    assert any("the density was stopped after" in note and "of 55 steps" in note for note in first.notes)
    np.testing.assert_allclose(first.density.exact, whole.density.exact, rtol=1e-9)
    second = stopped(110)
    assert [len(n) for n in second.density.nodes] == [60]
    np.testing.assert_array_equal(second.density.nodes[0], whole.density.nodes[0])
    rough = stopped(6)
    assert rough.density.weights[0].sum() == pytest.approx(1)
    assert len(rough.density.exact) == 0
    assert any("rough" in note for note in rough.notes)


def test_memory_for_fewer_steps_is_said():
    operator = Matrix(rotated(SPECTRA["outliers"]))
    asked = Wanted(density=True, steps=60, copies=False, tol=1e-6)
    found = analyse(operator, asked, sizes=[200], rows=31)
    assert [len(n) for n in found.density.nodes] == [35]
    assert "memory has room for 30 of 55 steps of the density" in found.notes
    assert not any("stopped" in note for note in found.notes)


def test_other_eigensolvers_eigenvalues_are_exact_in_it_too():
    from sharpkit.diagnostics.curvature.backends import arpack

    operator = Matrix(rotated(SPECTRA["outliers"]))
    found = analyse(
        operator,
        Wanted(density=True, steps=40, bottom=1),
        sizes=[200],
        rows=500,
        elsewhere=lambda a: (arpack(a, 5, bottom=1, tol=1e-9, seed=0), []),
    )
    np.testing.assert_allclose(found.density.exact, [50, 40, 30, 20, 10, -1], rtol=1e-8)


def test_a_small_matrix_gives_all_its_eigenvalues():
    values = [9.0, 3, 3, 1, 0, 0, 0, -2]
    density = analysed(values, top=3, runs=5).density
    np.testing.assert_allclose(density.exact, values, atol=1e-12)
    assert len(density.nodes) == 1
    np.testing.assert_allclose(density.weights[0], 1 / 8)
    assert (density.spread == 0).all()


@pytest.mark.parametrize("value", [0.0, 1.0, -3e4, 1e-9])
@pytest.mark.parametrize("noise", [0.0, 1e-16])
def test_the_density_of_a_point_mass_integrates_to_one(value, noise):
    nodes = value * (1 + noise * np.arange(3))
    density = broaden([(np.sort(nodes), np.full(3, 1 / 3))])
    assert np.trapezoid(density.mean, density.grid) == pytest.approx(1, abs=1e-4)
    whole = analysed(np.full(60, value)).density
    assert np.trapezoid(whole.mean, whole.grid) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("sigma", [1e-6, 1e-3, 0.05, 3.0, 1e3])
def test_the_density_integrates_to_one_whatever_the_width(sigma):
    density = broaden(runs_of(Matrix(rotated(SPECTRA["outliers"])), 30, 2), sigma=sigma)
    assert np.trapezoid(density.mean, density.grid) == pytest.approx(1, abs=2e-3)
    assert (np.diff(density.grid) > 0).all()


@pytest.mark.slow
def test_the_interval_of_the_density_covers_it():
    """Pointwise, by Student's t over five runs, against the broadened spectrum itself; 200 seeds.

    A nominal 95 % gives 190 +- 3.1 of 200, so fewer than 180 would be three standard deviations off.
    """
    values = np.array(SPECTRA["outliers"])
    exact = np.array([np.mean(np.exp(-0.5 * ((t - values) / 0.5) ** 2)) for t in (-0.6, 0.0, 0.7)])
    exact /= 0.5 * np.sqrt(2 * np.pi)
    covered = np.zeros(3)
    for seed in range(200):
        density = analysed(values, seed=seed, runs=5, steps=20, sigma=0.5, copies=False).density
        mean, error = (np.interp((-0.6, 0.0, 0.7), density.grid, of) for of in (density.mean, density.error))
        covered += np.abs(mean - exact) <= stats.t.ppf(0.975, 4) * error
    assert ((covered >= 180) & (covered <= 199)).all()

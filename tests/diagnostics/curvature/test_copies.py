"""What one Krylov space misses: multiple eigenvalues and clusters, against dense matrices; when it is certain of it."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpkit.diagnostics import hessian
from sharpkit.diagnostics.curvature.copies import complete, upper_bound
from sharpkit.diagnostics.curvature.eigenvalues import converge, wanted
from sharpkit.diagnostics.curvature.operators import Matrix
from tests.diagnostics.support import Diagonal, basis_of, rotated

BULK = list(np.linspace(-1, 1, 200))
SPECTRA = {
    "all single": [9.0, 8, 7, 6, 5, *BULK],
    "double, first": [9.0, 9, 7, 6, 5, 4, *BULK],
    "double, last": [9.0, 8, 7, 6, 5, 5, *BULK],
    "triple and double": [9.0, 9, 9, 6, 6, 4, *BULK],
    "more copies than are wanted": [9.0] * 7 + BULK,
    "cluster narrower than the tolerance": [5.0, 5 - 1e-6, 5 - 2e-6, 3, 2.5, 2.4, *BULK],
    "negative and larger in magnitude": [3.0, 3, 2, 1.8, 1.6, *np.linspace(-6, 0.5, 80)],
    "rank deficient": [7.0, 7, 5, *np.zeros(150)],
}


def searched(matrix, top=5, bottom=0, *, rows=400, tol=1e-4, **options):
    lanczos = basis_of(Matrix(matrix), rows=rows)
    before = converge(lanczos, top, bottom=bottom, tol=tol)
    products = lanczos.operator.products
    ritz, sure = complete(lanczos, before, top, bottom=bottom, tol=tol, **options)
    ends = wanted(len(ritz.values), top, bottom)
    return before.values[: len(ends)], ritz.values[ends], sure, products, lanczos


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize(("rows", "dtype"), [(400, torch.float64), (60, torch.float64), (400, torch.float32)])
def test_nothing_is_missing(name, rows, dtype):
    values = np.sort(SPECTRA[name])[::-1]
    _, found, sure, _, _ = searched(rotated(values).to(dtype), rows=rows)
    np.testing.assert_allclose(found, values[:5], rtol=2e-5, atol=1e-5)
    assert sure


@pytest.mark.parametrize("name", ["double, first", "cluster narrower than the tolerance"])
def test_without_looking_copies_are_missed(name):
    """Lanczos converges to the wrong values, with residuals that say nothing of it."""
    values = np.sort(SPECTRA[name])[::-1]
    before, found, _, _, _ = searched(rotated(values))
    assert np.abs(before / values[:5] - 1).max() > 0.05
    np.testing.assert_allclose(found, values[:5], rtol=1e-5)


def test_both_ends():
    values = [9.0, 9, 5, 3, *BULK, -4, -6, -6]
    _, found, sure, _, _ = searched(rotated(values), top=3, bottom=3)
    np.testing.assert_allclose(found, [9, 9, 5, -4, -6, -6], rtol=1e-6)
    assert sure


def test_where_nothing_is_missing_it_costs_few_products_and_less_of_a_large_basis():
    entries = torch.cat([torch.tensor([200.0, 33, 27, 20, 14]), torch.linspace(-1, 1, 20_000)])
    costs = []
    for steps in (0, 60):
        lanczos = basis_of(Diagonal(entries))
        for _ in range(steps):
            lanczos.step()
        ritz = converge(lanczos, 5)
        before = lanczos.operator.products
        ritz, sure = complete(lanczos, ritz, 5)
        assert sure
        np.testing.assert_allclose(ritz.values[:5], [200, 33, 27, 20, 14], rtol=1e-6)
        costs.append(lanczos.operator.products - before)
    assert costs[0] <= 6
    assert costs[1] <= 5


def test_what_is_certain_is_right():
    """Of random matrices with multiple eigenvalues, at either end, in both precisions, with and without restarts."""
    rng = np.random.default_rng(0)
    missed = certain = 0
    for i in range(24):
        outliers = np.repeat(rng.uniform(2, 10, 3), rng.integers(1, 4, 3))
        below = -rng.uniform(2, 8, 2).repeat(2)
        values = np.sort(np.r_[outliers, rng.uniform(-1, 1, 90), below])[::-1]
        top, bottom = int(rng.integers(1, len(outliers) + 1)), int(rng.integers(0, 3))
        matrix = rotated(values, seed=i).to(torch.float32 if i % 2 else torch.float64)
        lanczos = basis_of(Matrix(matrix), rows=400 if i % 3 else 60, seed=i)
        before = converge(lanczos, top, bottom=bottom)
        ritz, sure = complete(lanczos, before, top, bottom=bottom)
        exact = values[wanted(len(values), top, bottom)]
        missed += np.abs(before.values[wanted(len(before.values), top, bottom)] / exact - 1).max() > 1e-3
        certain += sure
        if sure:
            np.testing.assert_allclose(ritz.values[wanted(len(ritz.values), top, bottom)], exact, rtol=2e-4)
    assert missed >= 3
    assert certain >= 20


def test_it_says_where_it_is_not_certain():
    """Among eigenvalues that lie close no start shows that none is missing; nor does one that is stopped."""
    close = np.linspace(0, 1, 200)
    _, found, sure, products, lanczos = searched(rotated(close))
    assert not sure
    assert lanczos.operator.products <= 1.6 * products
    np.testing.assert_allclose(found, close[::-1][:5], rtol=1e-6)
    told = []
    _, _, sure, products, lanczos = searched(
        rotated(SPECTRA["all single"]), watch=lambda done, _: told.append(done) or False
    )
    assert not sure
    assert told == [products + 1] == [lanczos.operator.products]
    assert not searched(rotated(SPECTRA["all single"]), most=1)[2]


def test_the_bound_is_one_from_every_start():
    """Of 100 starts none gives a bound that is too low, which would happen to one in a thousand at most."""
    values = torch.tensor([2.0, *np.linspace(-1, 1, 100)], dtype=torch.float64)
    bounds = []
    for seed in range(100):
        lanczos = basis_of(Diagonal(values), seed=seed)
        lanczos.step()
        first = lanczos.basis[0].clone()
        lanczos.start_again()
        for _ in range(9):
            lanczos.step(follow=True)
        rest = torch.eye(len(values)).double() - torch.outer(first, first)
        largest = float(torch.linalg.eigvalsh(rest @ torch.diag(values) @ rest)[-1])
        bound = upper_bound(*lanczos.followed(1), len(values) - 1, 50.0)
        assert bound is not None
        assert bound >= largest
        bounds.append(bound)
    assert 2 < np.median(bounds) < 3
    assert upper_bound(np.array([1.0]), np.array([0.5]), 1000, 1.1) is None


def test_a_new_start_leaves_the_matrix_of_the_basis_exact():
    matrix = rotated(SPECTRA["double, first"])
    lanczos = basis_of(Matrix(matrix))
    for follow in (False,) * 6 + (True,) * 5 + (False,) * 4:
        if follow and lanczos.block == 1:
            lanczos.start_again()
        lanczos.step(follow=follow)
    rows = torch.cat([lanczos.basis, lanczos.coming])
    torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows)).double(), rtol=0, atol=1e-12)
    exact = (rows @ matrix @ lanczos.basis.T).numpy()
    np.testing.assert_allclose(lanczos.projected, exact[:15], atol=1e-12)
    np.testing.assert_allclose(lanczos.coupling, exact[15:], atol=1e-12)


@pytest.mark.parametrize("copies", [2, 3, 10])
def test_linear_regression_of_several_outputs(copies):
    """Its Hessian is I (x) X^T X / N: every eigenvalue as often as there are outputs."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 30, generator=generator, dtype=torch.float64) * torch.logspace(0, -2, 30, dtype=torch.float64)
    targets = torch.randn(60, copies, generator=generator, dtype=torch.float64)
    loss = lambda out, y, reduction: 0.5 * (out - y).square().sum(1)  # noqa: E731
    model = nn.Linear(30, copies, bias=False).double()
    exact = np.repeat(np.linalg.eigvalsh((x.T @ x / 60).numpy())[::-1], copies)
    found = hessian(model, loss, [(x, targets)], top=7)
    np.testing.assert_allclose(found.eigenvalues, exact[:7], rtol=1e-6)
    assert found.none_missing
    single = hessian(model, loss, [(x, targets)], top=7, copies=False)
    assert single.none_missing is None


def test_what_a_spectrum_says_of_it():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 6, generator=generator), torch.randint(3, (40,), generator=generator)
    found = hessian(nn.Linear(6, 3), F.cross_entropy, [(x, y)], top=3, density=True, steps=12)
    assert found.none_missing
    assert not math.isnan(found.eigenvalues[0])
    stopped = hessian(nn.Linear(6, 3), F.cross_entropy, [(x, y)], top=3, watch=lambda products, _: products < 5)
    assert stopped.none_missing is None

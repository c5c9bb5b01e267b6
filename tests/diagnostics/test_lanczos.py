"""Eigenvalues against known spectra: clusters, multiplicities, negative ones, rank deficiency, restarts, float32."""

import numpy as np
import pytest
import scipy.sparse.linalg
import torch

from sharpkit.diagnostics import reductions
from sharpkit.diagnostics.eigenvalues import converge, eigenpairs
from sharpkit.diagnostics.operators import Matrix
from tests.diagnostics.support import Diagonal, basis_of, rotated


def pairs_of(operator, top=5, bottom=0, tol=1e-10, rows=400, block=1, most=1000, **options):
    lanczos = basis_of(operator, rows=rows, block=block)
    ritz = converge(lanczos, top, bottom=bottom, tol=tol, most=most)
    return eigenpairs(lanczos, ritz, top, bottom=bottom, tol=tol, **options), lanczos


SPECTRA = {
    "bulk and outliers": [100.0, 60, 30, 20, 10, *np.linspace(-1, 1, 95)],
    "clustered": [5.0, 5 - 1e-6, 5 - 2e-6, 4.9, 4.8, *np.linspace(0, 1, 60)],
    "negative and larger in magnitude": [3.0, 2.5, 2, 1.5, 1, *np.linspace(-50, 0.5, 60)],
    "rank deficient": [7.0, 5, 3, *np.zeros(60)],
    "all negative": list(-np.linspace(1, 9, 50)),
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("rows", [400, 20], ids=["one basis", "restarted"])
def test_the_largest_are_found_with_their_residuals(name, rows):
    values = np.sort(SPECTRA[name])[::-1]
    matrix = rotated(values)
    found, _ = pairs_of(Matrix(matrix), rows=rows)
    np.testing.assert_allclose(found.values, values[:5], rtol=1e-8, atol=1e-10)
    assert found.converged.all()
    residuals = (found.vectors @ matrix - torch.from_numpy(found.values)[:, None] * found.vectors).norm(dim=1)
    np.testing.assert_allclose(found.residuals, residuals.numpy(), rtol=1e-6, atol=1e-12)
    gram = found.vectors @ found.vectors.T
    torch.testing.assert_close(gram, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-8)


@pytest.mark.parametrize("rows", [400, 24])
def test_both_ends(rows):
    values = np.sort(SPECTRA["bulk and outliers"])[::-1]
    found, _ = pairs_of(Matrix(rotated(values)), top=3, bottom=2, rows=rows)
    np.testing.assert_allclose(found.values, [*values[:3], *values[-2:]], rtol=1e-8)


@pytest.mark.parametrize("rows", [400, 24])
def test_multiple_eigenvalues_by_blocks(rows):
    values = [9.0, 9, 9, 4, 4, *np.linspace(0, 1, 80)]
    found, _ = pairs_of(Matrix(rotated(values)), block=3, rows=rows)
    np.testing.assert_allclose(found.values, values[:5], rtol=1e-9)
    assert found.converged.all()


def test_the_identity_and_tiny_matrices_are_exhausted():
    found, lanczos = pairs_of(Matrix(2.5 * torch.eye(7, dtype=torch.float64)))
    np.testing.assert_allclose(found.values, [2.5] * 5, rtol=1e-12)
    found, lanczos = pairs_of(Matrix(torch.tensor([[2.0, 1], [1, 2]], dtype=torch.float64)))
    np.testing.assert_allclose(found.values, [3, 1], rtol=1e-12)
    assert lanczos.complete
    found, _ = pairs_of(Matrix(torch.zeros(6, 6, dtype=torch.float64)), top=2)
    np.testing.assert_allclose(found.values, [0, 0], atol=1e-14)


def test_no_ghosts_in_a_hundred_steps():
    """Without re-orthogonalisation the largest eigenvalue comes back, more often the longer it runs."""
    entries = torch.cat([torch.tensor([100.0, 50, 25, 12, 6]), torch.linspace(-0.5, 0.5, 5000)])
    lanczos = basis_of(Diagonal(entries))
    for _ in range(100):
        lanczos.step()
    values = np.linalg.eigvalsh(lanczos.projected)
    assert (values > 1).sum() == 5
    gram = (lanczos.basis.double() @ lanczos.basis.double().T).numpy()
    assert np.abs(gram - np.eye(100)).max() < 1e-5


def test_as_scipy_finds_them_in_no_more_products():
    matrix = rotated([*np.geomspace(100, 2, 12), *np.linspace(-1, 1, 288)])
    counted = Matrix(matrix)
    linear = scipy.sparse.linalg.LinearOperator(
        matrix.shape, lambda v: counted.product(torch.from_numpy(v.ravel())).numpy(), dtype=np.float64
    )
    expected = np.sort(scipy.sparse.linalg.eigsh(linear, 5, which="LA", tol=1e-6, return_eigenvectors=False))[::-1]
    found, lanczos = pairs_of(Matrix(matrix), tol=1e-6, verify=False)
    np.testing.assert_allclose(found.values, expected, rtol=1e-9)
    assert lanczos.operator.products <= counted.products


def test_what_is_not_converged_says_so():
    found, _ = pairs_of(Matrix(rotated(np.linspace(0, 1, 300))), most=8)
    assert not found.converged.all()
    assert (found.residuals[~found.converged] > 1e-10 * found.values[~found.converged]).all()


def test_long_float32_vectors_lose_nothing():
    """11 million entries: a float32 norm is off by 4e-4 there, and an eigenvalue was by 1.6e-3."""
    generator = torch.Generator().manual_seed(0)
    entries = torch.rand(11_000_000, generator=generator)
    entries[:2] = torch.tensor([40.0, 25])
    found, lanczos = pairs_of(Diagonal(entries), top=2, tol=1e-4, rows=20, verify=False)
    np.testing.assert_allclose(found.values, [40, 25], rtol=5e-6)
    assert found.converged.all()
    lengths = lanczos.basis[:3].double().norm(dim=1)
    np.testing.assert_allclose(lengths.numpy(), 1, atol=1e-7)
    vector = lanczos.basis[0] * 3
    assert float(reductions.norm(vector)) == pytest.approx(float(vector.double().norm()), rel=1e-7)


def test_inner_products_and_rotations():
    rows, vector = torch.randn(4, 70_001), torch.randn(70_001)
    expected = rows.double() @ vector.double()
    torch.testing.assert_close(reductions.inner(rows, vector), expected, rtol=1e-5, atol=1e-3)
    weights = torch.randn(4, 2, dtype=torch.float64)
    mixed = weights.T.float() @ rows
    reductions.rotate_(rows, weights)
    torch.testing.assert_close(rows[:2], mixed, rtol=1e-5, atol=1e-5)

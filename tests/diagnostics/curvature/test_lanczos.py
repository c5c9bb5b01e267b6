"""Eigenvalues against known spectra: clusters, multiplicities, negative ones, rank deficiency, restarts, float32."""

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from torch.nn import functional as F

from sharpkit.diagnostics import reductions
from sharpkit.diagnostics.curvature.eigenvalues import converge, eigenpairs
from sharpkit.diagnostics.curvature.matrices import Curvature
from sharpkit.diagnostics.curvature.operators import Matrix
from sharpkit.diagnostics.problem import opened
from tests.core.support import Reads
from tests.diagnostics.support import Diagonal, basis_of, net, rotated, samples


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


def test_one_product_checks_all_residuals():
    found, lanczos = pairs_of(Matrix(rotated(SPECTRA["bulk and outliers"])))
    assert lanczos.operator.products == lanczos.steps + 1
    assert found.converged.all()


class Changing(Matrix):
    """Becomes another matrix after some products."""

    def __init__(self, matrix, after, change):
        super().__init__(matrix)
        self.after, self.change = after, change

    def product(self, vector):
        image = super().product(vector)
        return image + self.change @ vector if self.products > self.after else image


def test_products_that_are_not_those_of_the_recurrence_show_in_the_residuals():
    matrix, change = rotated(SPECTRA["bulk and outliers"]), 1e-3 * rotated(np.ones(100))
    quiet = basis_of(Matrix(matrix))
    converge(quiet, 5, tol=1e-8)
    operator = Changing(matrix, quiet.steps, change)
    found, _ = pairs_of(operator, tol=1e-8)
    assert operator.products == quiet.steps + 1 + 5  # the common one, which shows it, and then one for each
    assert not found.converged.any()
    np.testing.assert_allclose(found.residuals, 1e-3, rtol=1e-3)


@pytest.mark.parametrize("left_out", [None, 0, 2, 4])
def test_a_lead_saves_products_and_hides_no_eigenvector(left_out):
    """Also not one that it has no part in: half of the start is random."""
    entries = torch.cat([torch.tensor([200.0, 33, 27, 20, 14]), torch.linspace(0, 8, 20000)]).double()
    lead = (entries > 10).double() * 1e-3
    if left_out is not None:
        lead[left_out] = 0
    without, with_lead = basis_of(Diagonal(entries)), basis_of(Diagonal(entries), lead=lead)
    for lanczos in (without, with_lead):
        ritz = converge(lanczos, 5, tol=1e-4)
        np.testing.assert_allclose(ritz.values[:5], [200, 33, 27, 20, 14], rtol=1e-6)
    if left_out is None:
        assert with_lead.steps < without.steps


def test_a_lead_of_zero_and_one_of_a_block():
    matrix = Matrix(rotated(SPECTRA["bulk and outliers"]))
    for block, lead in ((1, torch.zeros(100).double()), (3, torch.ones(100).double())):
        lanczos = basis_of(matrix, block=block, lead=lead)
        start = lanczos.coming
        torch.testing.assert_close(start @ start.T, torch.eye(block).double(), rtol=0, atol=1e-12)
        np.testing.assert_allclose(converge(lanczos, 2, tol=1e-9).values[:2], [100, 60])


def test_a_step_reads_nothing_back():
    model = net("cnn")
    with opened(model, F.cross_entropy, [samples("cnn")]) as problem:
        lanczos = basis_of(Curvature(problem))
        lanczos.step()  # builds the graph, and may measure it
        with Reads() as mode:
            for _ in range(8):
                lanczos.step()
    assert mode.seen == []


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

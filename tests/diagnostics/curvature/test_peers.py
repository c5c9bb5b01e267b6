"""The same products and eigenvalues as curvlinops has, where it is installed."""

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import eigsh
from torch import nn
from torch.nn import functional as F

from sharpkit.diagnostics import hessian
from sharpkit.diagnostics.curvature.matrices import Curvature
from sharpkit.diagnostics.problem import opened
from tests.diagnostics.support import net, samples, uneven


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "matrix", "theirs"), [("cnn", "hessian", "HessianLinearOperator"), ("mlp", "ggn", "GGNLinearOperator")]
)
def test_curvlinops(kind, matrix, theirs):
    peer = pytest.importorskip("curvlinops")
    model, (x, y) = net(kind).eval(), samples()
    batches = uneven(x, y, (10, 10))
    operator = getattr(peer, theirs)(
        model, nn.CrossEntropyLoss(), list(model.parameters()), batches, check_deterministic=False
    ).to_scipy()
    vector = np.linspace(-1, 1, operator.shape[0])
    with opened(model, F.cross_entropy, batches) as problem:
        ours = Curvature(problem, matrix).product(torch.from_numpy(vector))
    np.testing.assert_allclose(ours.numpy(), operator @ vector, rtol=1e-9, atol=1e-11)
    expected = np.sort(eigsh(operator, 5, which="LA", return_eigenvectors=False))[::-1]
    found = hessian(model, F.cross_entropy, batches, kind=matrix, tol=1e-9)
    np.testing.assert_allclose(found.eigenvalues, expected, rtol=1e-8)


def test_arpack_on_our_products():
    model, (x, y) = net("cnn"), samples()
    theirs = hessian(model, F.cross_entropy, [(x, y)], backend="scipy", tol=1e-9, bottom=2)
    ours = hessian(model, F.cross_entropy, [(x, y)], tol=1e-9, bottom=2)
    np.testing.assert_allclose(theirs.eigenvalues, ours.eigenvalues, rtol=1e-8)
    np.testing.assert_allclose(theirs.smallest.values, ours.smallest.values, rtol=1e-8)
    assert theirs.converged.all()


def test_pyhessian_and_its_repaired_density():
    pytest.importorskip("pyhessian")
    model, (x, y) = net("mlp").float(), samples()
    state, before = torch.get_rng_state(), getattr(torch, "eig", None)
    theirs = hessian(
        model, F.cross_entropy, [(x.float(), y)], backend="pyhessian", top=2, density=True, steps=10, trace="hutchinson"
    )
    ours = hessian(model, F.cross_entropy, [(x.float(), y)], top=2)
    assert theirs.eigenvalues[0] == pytest.approx(ours.eigenvalues[0], rel=0.02)
    assert theirs.density.weights[0].sum() == pytest.approx(1, abs=1e-5)
    assert getattr(torch, "eig", None) is before
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())

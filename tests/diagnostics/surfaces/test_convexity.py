"""The ends of the Hessian's spectrum over a plane, against the dense matrix at every point."""

import copy
import math

import numpy as np
import torch
from torch.nn import functional as F

from sharpkit.diagnostics import landscape, random_plane
from sharpkit.diagnostics.surfaces.convexity import convexity
from tests.core.support import bits
from tests.diagnostics.support import dense, net, samples


def test_the_eigenvalues_are_those_of_the_dense_matrix_there():
    model, (x, y) = net("mlp"), samples()
    plane, before = random_plane(model, seed=3), bits(model.state_dict())
    xs, ys = [-0.5, 0.7], [0.4]
    found = convexity(model, F.cross_entropy, [(x, y)], plane, xs, ys, tol=1e-6)
    for j, b in enumerate(ys):
        for i, a in enumerate(xs):
            other = copy.deepcopy(model)
            with torch.no_grad():
                for k, p in enumerate(other.parameters()):
                    p.add_(a * plane.axes[0][k] + b * plane.axes[1][k])
            values = torch.linalg.eigvalsh(dense(other, x, y)).numpy()
            np.testing.assert_allclose([found.smallest[j, i], found.largest[j, i]], values[[0, -1]], rtol=1e-5)
    np.testing.assert_allclose(found.ratio, np.abs(found.smallest / found.largest))
    assert found.converged.all()
    assert bits(model.state_dict()) == before


def test_points_where_the_loss_is_not_finite_are_left_out_and_a_stop_is_told():
    model, (x, y) = net("mlp"), samples()
    plane = random_plane(model)

    def far(outputs, targets, reduction):
        losses = F.cross_entropy(outputs, targets, reduction="none")
        return torch.where(losses.detach().max() > 20, math.inf, 1.0) * losses

    found = convexity(model, far, [(x, y)], plane, [-60.0, 0.0, 60.0], [0.0])
    assert np.isnan(found.ratio).tolist() == [[True, False, True]]
    stopped = landscape(
        model, F.cross_entropy, [(x, y)], x=[-1, 0, 1], y=None, convex=3, check=False,
        watch=lambda known, wanted, loss: loss == loss or known < 2,
    )  # fmt: skip
    assert not stopped.complete
    assert np.isnan(stopped.convexity.largest).tolist() == [[False, False, True]]

"""Surfaces: quadratics by their formula, networks point by point."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpkit.diagnostics import checkpoint_plane, hessian_plane, landscape, random_plane
from sharpkit.diagnostics.surfaces.surface import opened_surface
from sharpkit.errors import UsageError
from tests.diagnostics.support import NETS, X, Y, net, points, samples, uneven


class Linear(nn.Module):
    """f(x) = x w, whose squared error is a quadratic of w."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[1.0], [-2.0], [0.5]], dtype=torch.float64))

    def forward(self, x):
        return x @ self.w


def squared(outputs, targets, reduction):
    return 0.5 * (outputs[:, 0] - targets).square()


def quadratic(count=30):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return Linear(), x, torch.randn(count, generator=generator, dtype=torch.float64)


def test_a_quadratic_is_its_formula():
    model, x, t = quadratic()
    plane = random_plane(model, norm="none", seed=2)
    found = landscape(model, squared, [(x, t)], x=X, y=Y, plane=plane)
    w, d1, d2 = (v[0].numpy() for v in ([model.w.detach()], *plane.axes))
    design, targets = x.numpy(), t.numpy()
    losses = np.array([[0.5 * ((design @ (w + a * d1 + b * d2))[:, 0] - targets) ** 2 for a in X] for b in Y])
    np.testing.assert_allclose(found.loss, losses.mean(-1), rtol=1e-12)
    np.testing.assert_allclose(found.error, losses.std(-1, ddof=1) / math.sqrt(30), rtol=1e-11)
    assert np.isnan(found.accuracy).all()
    h = design.T @ design / 30
    for k, d in enumerate((d1, d2)):
        assert found.check.exact[k].curvature == pytest.approx((d.T @ h @ d).item(), rel=1e-12)
        assert found.check.fitted[k].curvature == pytest.approx(found.check.exact[k].curvature, rel=1e-8)
        assert found.check.fitted[k].slope == pytest.approx(found.check.exact[k].slope, rel=1e-8)
    # The mean over a circle of a quadratic is its value in the middle and r^2/4 times the trace of its form.
    form = sum((d.T @ h @ d).item() for d in (d1, d2))
    wide = landscape(model, squared, [(x, t)], x=np.linspace(-1, 1, 9), y=np.linspace(-1, 1, 7), plane=plane)
    assert wide.mean_rise(0.6) == pytest.approx(0.36 / 4 * form, rel=1e-9)
    assert wide.mean_rise() == wide.mean_rise(0.5)
    assert wide.fraction_below(np.median(wide.loss)) == pytest.approx(32 / 63)
    with pytest.raises(UsageError, match=r"radius is 1\.1"):
        wide.mean_rise(1.1)


@pytest.mark.parametrize("kind", NETS)
def test_every_point_is_the_networks_own_loss(kind):
    model, (x, y) = net(kind).eval(), samples(kind)
    plane = random_plane(model, ignore="none", seed=1)
    found = landscape(model, F.cross_entropy, uneven(x, y), x=X, y=Y, plane=plane)
    np.testing.assert_allclose(found.loss, points(model, x, y, plane, X, Y), rtol=1e-12)
    assert found.loss.shape == (4, 5)
    assert found.centre.loss == pytest.approx(float(F.cross_entropy(model(x), y).detach()), rel=1e-12)
    assert found.checkpoint.accuracy == pytest.approx(float((model(x).argmax(1) == y).double().mean()))


@pytest.mark.parametrize("kind", ["mlp", "cnn", "layer-norm"])
@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_many_points_at_once_are_the_same(kind, amp):
    """What accelerators do, here on the CPU."""
    model, (x, y) = net(kind).float(), samples(kind)
    plane = random_plane(model, seed=1)
    wanted = [(a, b) for b in Y.tolist() for a in X.tolist()]
    with opened_surface(model, F.cross_entropy, uneven(x.float(), y), plane, amp=amp) as surface:
        each = list(surface.many(wanted))
        surface.together = 7
        together = list(surface.many(wanted))
        assert "7 points at once" in surface.how
        assert surface.stackable
    assert [point for point, _ in together] == wanted
    tolerance = 2e-6 if amp == "off" else 0.05
    for (_, a), (_, b) in zip(each, together, strict=True):
        assert (b.loss, b.error) == pytest.approx((a.loss, a.error), rel=tolerance)
        assert b.accuracy == a.accuracy or amp == "bf16"


def test_many_points_at_once_in_double_precision():
    model, (x, y) = net("cnn").eval(), samples()
    plane = random_plane(model, ignore="none", seed=1)
    with opened_surface(model, F.cross_entropy, uneven(x, y), plane) as surface:
        cells = surface.at_once([(a, b) for b in Y for a in X])
    found = np.array([cell.loss for cell in cells]).reshape(len(Y), len(X))
    np.testing.assert_allclose(found, points(model, x, y, plane, X, Y), rtol=1e-12)


def test_an_even_grid_never_hits_the_centre_which_is_evaluated_all_the_same():
    model, (x, y) = net("mlp"), samples()
    even = landscape(model, F.cross_entropy, [(x, y)], x=np.linspace(-1, 1, 4), y=np.linspace(-1, 1, 4))
    assert even.centre.loss not in even.loss
    odd = landscape(model, F.cross_entropy, [(x, y)], x=np.linspace(-1, 1, 3), y=np.linspace(-1, 1, 3))
    assert odd.loss[1, 1] == odd.centre.loss == even.centre.loss
    assert even.evaluations == 17
    assert odd.evaluations == 9


@pytest.mark.parametrize("chunk", [1, 6, 64])
def test_chunks_do_not_matter(chunk):
    model, (x, y) = net("cnn").float(), samples()
    expected = landscape(copy.deepcopy(model).double(), F.cross_entropy, [(x, y)], x=X, y=Y, seed=4)
    found = landscape(model, F.cross_entropy, uneven(x.float(), y), x=X, y=Y, chunk=chunk, seed=4)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=2e-5)
    assert "2 batch norms folded" in found.how


def test_threads_do_not_matter():
    model, (x, y) = net("cnn").float(), samples()
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(landscape(model, F.cross_entropy, [(x.float(), y)], x=[-1, 0.5], y=None, check=False).loss)
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_allclose(*found, rtol=1e-6)


def test_statistics_are_those_of_the_samples_at_every_point():
    model, (x, y) = net("cnn"), samples()
    plane = random_plane(model, seed=1)
    found = landscape(model, F.cross_entropy, [(x, y)], x=X, y=Y, plane=plane, bn_mode="recompute")
    for j, i in ((0, 0), (3, 4), (1, 2)):
        other = copy.deepcopy(model)
        with torch.no_grad():
            for k, name in enumerate(plane.names):
                dict(other.named_parameters())[name].add_(X[i] * plane.axes[0][k] + Y[j] * plane.axes[1][k])
        torch.optim.swa_utils.update_bn([x], other)
        expected = float(F.cross_entropy(other.eval()(x), y).detach())
        assert found.loss[j, i] == pytest.approx(expected, rel=1e-12)
    assert found.check is None


def test_statistics_weigh_batches_by_their_samples():
    model, (x, y) = net("cnn"), samples()
    whole = landscape(model, F.cross_entropy, [(x, y)], x=X, y=None, bn_mode="recompute")
    parts = [(x[:18], y[:18]), (x[18:], y[18:])]
    two = landscape(model, F.cross_entropy, parts, x=X, y=None, bn_mode="recompute")
    assert whole.checkpoint.loss != two.checkpoint.loss
    with opened_surface(model, F.cross_entropy, parts, random_plane(model), bn_mode="recompute") as surface:
        surface.at(0.0)
        mean = model[1].running_mean.clone()
    first = model[0](x).detach().mean((0, 2, 3))
    torch.testing.assert_close(mean, first)


def test_the_ends_of_an_interpolation_are_the_checkpoints():
    model, other, (x, y) = net("cnn"), net("cnn", seed=7), samples()
    plane = checkpoint_plane(model, {"other": other.state_dict()})
    found = landscape(model, F.cross_entropy, [(x, y)], x=[0, 0.5, 1], y=None, plane=plane)
    assert found.loss[0, 0] == pytest.approx(float(F.cross_entropy(model.eval()(x), y).detach()), rel=1e-12)
    assert found.loss[0, 2] == pytest.approx(float(F.cross_entropy(other.eval()(x), y).detach()), rel=1e-12)
    assert found.profile


def test_along_eigenvectors_the_curvature_is_the_eigenvalue():
    model, (x, y) = net("mlp"), samples()
    plane = hessian_plane(model, F.cross_entropy, [(x, y)], tol=1e-8)
    found = landscape(model, F.cross_entropy, [(x, y)], x=X, y=X, plane=plane)
    assert [slope.curvature for slope in found.check.exact] == pytest.approx(plane.values, rel=1e-8)
    assert found.check.curvature_error < 1e-2
    assert found.check.slope_error < 1e-2


def test_low_precision_says_its_error():
    model, (x, y) = net("cnn").float(), samples()
    x = x.float()
    exact = landscape(model, F.cross_entropy, [(x, y)], x=X, y=Y)
    rough = landscape(model, F.cross_entropy, [(x, y)], x=X, y=Y, amp="bf16")
    errors = np.abs(rough.loss / exact.loss - 1)
    assert 1e-5 < rough.amp_error < 0.1
    assert errors.max() <= 3 * rough.amp_error
    assert math.isnan(exact.amp_error)
    assert rough.checkpoint.loss == exact.checkpoint.loss

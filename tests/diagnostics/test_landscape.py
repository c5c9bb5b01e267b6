"""Surfaces: quadratics by their formula, networks point by point, and the model left as it was whatever happens."""

import copy
import math
import signal

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from sharpkit.core import vec
from sharpkit.diagnostics import checkpoint_plane, hessian_plane, landscape, random_plane
from sharpkit.diagnostics.cells import Cells
from sharpkit.diagnostics.surface import Cell, opened_surface
from sharpkit.errors import DivergedError, InputError, UsageError
from tests.core.support import bits
from tests.diagnostics.support import NETS, net, samples, uneven

X, Y = np.linspace(-1, 1, 5), np.linspace(-0.5, 0.7, 4)


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


def points(model, x, y, plane, xs, ys, loss=F.cross_entropy):
    """The mean loss at every point by the definition, one functional call each: (ny, nx)."""
    named = {name: p.detach() for name, p in model.named_parameters()}
    found = np.zeros((len(ys), len(xs)))
    for j, b in enumerate(ys):
        for i, a in enumerate(xs):
            moved = dict(named)
            for k, name in enumerate(plane.names):
                moved[name] = named[name] + a * plane.axes[0][k]
                if len(plane.axes) > 1:
                    moved[name] = moved[name] + b * plane.axes[1][k]
            with torch.no_grad():
                found[j, i] = float(loss(functional_call(model, moved, (x,)), y))
    return found


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


# ---------------------------------------------------------------------- left as it was


def state(model):
    held = {**model.state_dict(), **{f"grad {n}": p.grad for n, p in model.named_parameters() if p.grad is not None}}
    return bits(held), [p.data_ptr() for p in model.parameters()], [p.stride() for p in model.parameters()]


def disturbed(model):
    """What a call must leave alone: mode, memory format, forward functions."""
    return [(m.training, "forward" in vars(m), getattr(m, "momentum", None)) for m in model.modules()]


@pytest.mark.parametrize("bn_mode", ["eval", "recompute"])
def test_everything_comes_back(bn_mode):
    model, (x, y) = net("cnn").train().to(memory_format=torch.channels_last), samples()
    model[1].eval()
    F.cross_entropy(model(x), y).backward()
    before = state(model), disturbed(model)
    landscape(model, F.cross_entropy, [(x, y)], x=X, y=Y, bn_mode=bn_mode)
    assert (state(model), disturbed(model)) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_everything_comes_back_after_an_exception(error):
    model, (x, y) = net("cnn").train(), samples()
    before = state(model), disturbed(model)
    other = net("cnn", seed=3)
    for plane in (None, checkpoint_plane(model, {"o": other.state_dict(), "p": net("cnn", seed=4).state_dict()})):

        def watch(known, total, loss):
            if known == 7:
                if error is KeyboardInterrupt:
                    signal.raise_signal(signal.SIGINT)
                raise error

            return True

        cells = Cells()
        with pytest.raises(error):
            landscape(model, F.cross_entropy, [(x, y)], x=X, y=Y, plane=plane, cells=cells, watch=watch)
        assert (state(model), disturbed(model)) == before
        assert len(cells) == 8  # the centre, and what there was time for


def overflowing(outputs, targets, reduction):
    """Not finite where outputs are large."""
    losses = F.cross_entropy(outputs, targets, reduction="none")
    return torch.where(losses > 3, math.nan, losses) + torch.where(losses > 6, math.inf, 0)


def test_cells_that_are_no_numbers_are_counted():
    model, (x, y) = net("mlp"), samples()
    wide = np.linspace(-5, 5, 6)
    before = state(model)
    found = landscape(model, overflowing, [(x, y)], x=wide, y=wide)
    expected = points(model, x, y, found.plane, wide, wide, lambda o, t: overflowing(o, t, "none").mean())
    assert found.nan_cells == int((~np.isfinite(expected)).sum()) > 0
    np.testing.assert_allclose(found.loss, expected, rtol=1e-12)
    assert math.isfinite(found.highest)
    assert found.known.all()
    assert math.isnan(found.mean_rise(4.0))
    assert state(model) == before


# ---------------------------------------------------------------------- known points


def test_what_is_known_is_not_evaluated_again():
    model, (x, y) = net("mlp"), samples()
    cells = Cells()
    coarse = landscape(model, F.cross_entropy, [(x, y)], x=np.linspace(-1, 1, 5), y=Y, cells=cells)
    fine = landscape(model, F.cross_entropy, [(x, y)], x=np.linspace(-1, 1, 9), y=Y, cells=cells)
    whole = landscape(model, F.cross_entropy, [(x, y)], x=np.linspace(-1, 1, 9), y=Y)
    assert (coarse.evaluations, fine.evaluations, fine.reused) == (21, 16, 20)
    assert bits([torch.tensor(fine.loss)]) == bits([torch.tensor(whole.loss)])
    assert bits([torch.tensor(fine.loss[:, ::2])]) == bits([torch.tensor(coarse.loss)])


def test_a_surface_that_is_stopped_goes_on():
    model, (x, y) = net("mlp"), samples()
    cells = Cells()
    half = landscape(
        model, F.cross_entropy, [(x, y)], x=X, y=Y, cells=cells, watch=lambda known, total, loss: known < 9
    )
    assert not half.complete
    assert half.known.sum() == 9
    assert np.isnan(half.loss[~half.known]).all()
    assert half.nan_cells == 0
    rest = landscape(model, F.cross_entropy, [(x, y)], x=X, y=Y, cells=cells)
    assert (rest.complete, rest.reused, rest.evaluations) == (True, 9, 11)
    np.testing.assert_array_equal(rest.loss, landscape(model, F.cross_entropy, [(x, y)], x=X, y=Y).loss)


def test_cells_survive_as_arrays():
    cells = Cells()
    cells.add((0.1 + 0.2, -0.0), Cell(1.0, 0.5, math.nan))
    again = Cells(*cells.arrays())
    assert (0.3, 0.0) in again
    assert again[0.3, 0.0].loss == 1.0
    assert (0.3 + 1e-8, 0.0) not in again
    assert [a.shape for a in Cells().arrays()] == [(0, 2), (0, 3)]


# ---------------------------------------------------------------------- refused


def test_what_is_random_or_not_finite_is_refused():
    model, (x, y) = net("mlp"), samples()

    def noisy(outputs, targets, reduction):
        return F.cross_entropy(outputs + torch.randn_like(outputs), targets, reduction=reduction)

    with pytest.raises(InputError, match="random"):
        landscape(model, noisy, [(x, y)], x=X, y=Y, check=False)
    with pytest.raises(DivergedError):
        landscape(model, lambda o, t, reduction: o[:, 0] * math.nan, [(x, y)], x=X, y=Y, check=False)


@pytest.mark.parametrize(
    "options",
    [{"x": []}, {"x": [0, 0]}, {"x": [1, -1]}, {"x": [0, math.nan]}, {"bn_mode": "train"}, {"y": [[0, 1]]}],
)
def test_bad_values(options):
    model, (x, y) = net("mlp"), samples()
    with pytest.raises(UsageError):
        landscape(model, F.cross_entropy, [(x, y)], **options)


def test_a_plane_needs_two_axes_and_a_profile_one():
    model, (x, y) = net("mlp"), samples()
    with pytest.raises(UsageError, match="1 directions"):
        landscape(model, F.cross_entropy, [(x, y)], plane=random_plane(model, 1))
    with pytest.raises(UsageError, match="no batch"):
        landscape(model, F.cross_entropy, [], check=False)


def test_the_displaced_weights_are_the_definition():
    model, (x, y) = net("mlp"), samples()
    plane = random_plane(model, ignore="none")
    start = vec.clone(list(model.parameters()))
    with opened_surface(model, F.cross_entropy, [(x, y)], plane) as surface:
        surface.at(0.3, -0.2)
        for p, w, d1, d2 in zip(model.parameters(), start, *plane.axes, strict=True):
            torch.testing.assert_close(p.detach(), w + 0.3 * d1 - 0.2 * d2, rtol=1e-14, atol=1e-15)
        surface.at(0.0)
        assert bits([p.detach() for p in model.parameters()]) == bits(start)

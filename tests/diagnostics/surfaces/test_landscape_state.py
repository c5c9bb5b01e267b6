"""Surfaces that are interrupted, gone on with or refused, and the model left as it was whatever happens."""

import math
import signal

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sharpkit.core import vec
from sharpkit.diagnostics import checkpoint_plane, landscape, random_plane
from sharpkit.diagnostics.surfaces.cells import Cells
from sharpkit.diagnostics.surfaces.surface import Cell, opened_surface
from sharpkit.errors import DivergedError, InputError, UsageError
from tests.core.support import bits
from tests.diagnostics.support import X, Y, net, points, samples

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

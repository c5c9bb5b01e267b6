"""Surfaces from few evaluations: interpolation against numpy, errors as told, and the full grid where it is rough."""

import math

import numpy as np
import pytest
from torch.nn import functional as F

from sharpkit.diagnostics import landscape
from sharpkit.diagnostics.surfaces.cells import Cells
from sharpkit.diagnostics.surfaces.chebyshev import fill, matrix
from sharpkit.diagnostics.surfaces.surface import Cell
from sharpkit.errors import UsageError
from tests.diagnostics.support import net, samples

X, Y = np.linspace(-1, 1, 50).tolist(), np.linspace(-1, 2, 40).tolist()


def filled(function, tol=0.01, xs=X, ys=Y, **options):
    """Fill a grid with a function of a and b; return what came of it, the cells, and the true grid."""
    cells = Cells()

    def evaluate(points):
        for a, b in points:
            cells.add((a, b), Cell(function(a, b), 0.5, 0.1))
        return True

    true = np.array([[function(a, b) for a in xs] for b in ys])
    return fill(cells, xs, ys, tol, evaluate, **options), cells, true


def test_the_matrix_interpolates_as_numpy_does():
    nodes = (-np.cos(np.pi * np.arange(9) / 8) * 1.5 + 0.5).tolist()
    places = [*np.linspace(-1, 2, 11).tolist(), nodes[3], 2.0]
    values = np.exp(np.sin(2 * np.array(nodes)))
    exact = np.polynomial.Chebyshev.fit(nodes, values, 8)
    np.testing.assert_allclose(matrix(nodes, places) @ values, exact(np.array(places)), rtol=1e-12)
    np.testing.assert_array_equal(matrix(nodes, nodes), np.eye(9))


def test_a_smooth_surface_takes_few_evaluations_and_says_its_error():
    found, cells, true = filled(lambda a, b: math.exp(a * a + 0.5 * b * b + 0.3 * math.sin(3 * a)))
    assert found.how.accepted
    assert len(cells) < len(X) * len(Y) / 10
    off = np.abs(found.values[0] - true) / np.ptp(true)
    assert off.max() <= 0.01
    assert found.how.error <= off.max()
    np.testing.assert_allclose(found.values[1:], np.broadcast_to([[[0.5]], [[0.1]]], (2, 40, 50)), rtol=1e-12)


def test_the_logarithm_is_interpolated_where_that_is_better():
    found, _, true = filled(lambda a, b: math.exp(3 * a + 4 * b), tol=1e-3)
    assert found.how.of == "log loss"
    assert found.how.nodes == (5, 5)
    np.testing.assert_allclose(found.values[0], true, rtol=1e-9)


def test_a_logarithmic_picture_needs_the_logarithm_to_agree():
    def valley(a, b):
        return 2e-2 + abs(a) ** 3 + abs(b - 0.5) ** 3

    def off(found, true):
        return np.abs(np.log(np.maximum(found.values[0], 1e-9)) - np.log(true)).max() / np.ptp(np.log(true))

    loose, few, true = filled(valley)
    tight, more, _ = filled(valley, scale="log loss")
    assert loose.how.accepted
    assert off(loose, true) > 0.01
    assert tight.how.accepted
    assert off(tight, true) <= 0.01
    assert len(more) > len(few)
    assert filled(lambda a, b: a, scale="log loss")[0].values is None


def test_axes_are_refined_on_their_own():
    found, _, true = filled(lambda a, b: 2 + math.sin(9 * a) + 0.1 * b, tol=1e-3)
    assert found.how.nodes == (17, 5)
    assert np.abs(found.values[0] - true).max() < 1e-3 * np.ptp(true)


def test_what_is_rough_or_not_finite_is_given_up():
    found, _, _ = filled(lambda a, b: float(math.floor(4 * a) + math.floor(4 * b)))
    assert found.values is None
    assert "not smooth" in found.how.reason
    assert found.how.error > 0.01
    found, _, _ = filled(lambda a, b: math.nan if a > 0.5 else a)
    assert (found.values, found.how.reason) == (None, "some losses are not finite, or have no logarithm")
    found, cells, _ = filled(lambda a, b: a, xs=X[:5], ys=Y[:5])
    assert found.values is None
    assert len(cells) <= 25


@pytest.mark.parametrize("tol", [0.01, 0.002])
def test_a_networks_surface_within_its_tolerance(tol):
    model, (x, y) = net("mlp"), samples()
    grid = np.linspace(-1, 1, 40)
    whole = landscape(model, F.cross_entropy, [(x, y)], x=grid, y=grid, check=False)
    few = landscape(model, F.cross_entropy, [(x, y)], x=grid, y=grid, check=False, adaptive=tol)
    assert few.interpolation.accepted
    assert few.evaluations < whole.evaluations / 5
    assert np.abs(few.loss - whole.loss).max() <= tol * np.ptp(whole.loss)
    assert np.abs(few.error - whole.error).max() < 0.05 * np.ptp(whole.error)
    assert few.known.all()
    assert (~few.interpolated).sum() < few.evaluations
    np.testing.assert_allclose(few.loss[~few.interpolated], whole.loss[~few.interpolated], rtol=1e-12)
    line = landscape(model, F.cross_entropy, [(x, y)], x=np.linspace(-1, 1, 101), y=None, check=False, adaptive=tol)
    assert line.evaluations < 60


def test_the_whole_grid_where_it_is_rough():
    model, (x, y) = net("mlp"), samples()

    def rough(outputs, targets, reduction):
        return (20 * F.cross_entropy(outputs, targets, reduction="none")).floor()

    grid = np.linspace(-1, 1, 12)
    whole = landscape(model, rough, [(x, y)], x=grid, y=grid, check=False)
    found = landscape(model, rough, [(x, y)], x=grid, y=grid, check=False, adaptive=0.001)
    assert not found.interpolation.accepted
    np.testing.assert_array_equal(found.loss, whole.loss)
    assert not found.interpolated.any()
    assert any("the whole grid was evaluated" in note for note in found.notes)


def test_stopped_between():
    model, (x, y) = net("mlp"), samples()
    cells = Cells()
    grid = np.linspace(-1, 1, 40)
    found = landscape(
        model, F.cross_entropy, [(x, y)], x=grid, y=grid, check=False, adaptive=0.01, cells=cells,
        watch=lambda known, wanted, loss: len(cells) < 30,
    )  # fmt: skip
    assert not found.complete
    assert len(cells) == 30
    assert found.interpolation is None
    with pytest.raises(UsageError, match="adaptive is 1"):
        landscape(model, F.cross_entropy, [(x, y)], adaptive=1)

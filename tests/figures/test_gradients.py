"""Figures of gradients by their data."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpkit.diagnostics import graddiff, gradnorms, sharpness
from sharpkit.figures import style
from sharpkit.figures.differences import differences
from sharpkit.figures.norms import norms
from sharpkit.figures.sharpness import rises


@pytest.fixture(scope="module")
def problem():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 3))
    return model, F.cross_entropy, [(torch.randn(8, 6), torch.randint(3, (8,))) for _ in range(30)]


def test_densities_are_on_one_grid_and_integrate_to_what_is_on_it(problem):
    results = {rho: graddiff(*problem, f"sam:rho={rho}") for rho in ("0.01", "1")}
    (axis,) = differences(results, 10).axes
    filled = [p for p in axis.patches if p.get_fill()]
    assert len(filled) == 2
    for patch, result in zip(filled, results.values(), strict=True):
        data = patch.get_data()
        assert (data.values * np.diff(data.edges)).sum() == pytest.approx(
            result.total.histogram.sum() / result.total.counted
        )
        np.testing.assert_allclose(data.edges, result.grid.edges / math.log(10))
    assert r"\log_{10}" in axis.get_xlabel()
    low, high = axis.get_xlim()
    assert low < 0 < high


def test_the_quantile_plot_has_points_line_and_envelope(problem):
    found = gradnorms(*problem)
    figure = norms({"a": found, "b": found})
    assert len(figure.axes) == 4
    line, points = figure.axes[1].lines
    np.testing.assert_array_equal(points.get_ydata(), np.sort(found.values))
    np.testing.assert_allclose(line.get_ydata(), found.normality.intercept + found.normality.slope * points.get_xdata())
    assert len(norms({"a": found}, histogram=False).axes) == 1


def test_equal_norms_can_be_drawn(problem):
    model, loss, batches = problem
    norms({"a": gradnorms(model, loss, [batches[0]] * 9)})


def test_rises_have_two_standard_errors(problem):
    model, loss, batches = problem
    found = sharpness(model, loss, batches[:4], steps=2, m=16, directions=4)
    (axis,) = rises({"a": found}).axes
    containers = axis.containers
    assert len(containers) == 4
    assert containers[0].lines[0].get_ydata()[0] == found.one_step.value
    (bar,) = containers[0].lines[2][0].get_segments()
    assert bar[1][1] - bar[0][1] == pytest.approx(4 * found.one_step.error)


def test_styles_go_round():
    assert style.colour(len(style.COLOURS)) == style.colour(0)
    assert style.marker(1) != style.marker(0)

"""Figures of spectra: what is drawn, read back from the axes."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sharpkit.diagnostics import hessian
from sharpkit.figures.spectrum import spectrum
from sharpkit.models import MODELS
from tests.diagnostics.support import net, samples

pytest.importorskip("matplotlib")


def drawn(result, name="run"):
    figure = spectrum({name: result})
    axis = figure.axes[0]
    line = next(line for line in axis.lines if line.get_label() == "density")
    return figure, axis, line.get_xdata(), line.get_ydata()


@pytest.fixture(scope="module")
def result():
    """As by default: one run, of a network with far more parameters than steps."""
    torch.manual_seed(0)
    model = MODELS["mlp"]((1, 8, 8), 10)
    x, y = torch.randn(60, 1, 8, 8), torch.randint(10, (60,))
    return hessian(model, F.cross_entropy, [(x, y)], density=True, steps=40)


def test_every_computed_eigenvalue_stands_out_above_the_floor(result):
    _, axis, x, y = drawn(result)
    floor = axis.get_ylim()[0]
    assert axis.get_yscale() == "log"
    for value in result.eigenvalues:
        assert np.interp(value, x, y) > 5 * floor
    alone = 1 / (result.parameters * result.density.sigma * np.sqrt(2 * np.pi))
    assert np.interp(result.eigenvalues[0], x, y) == pytest.approx(alone, rel=0.05)


def test_what_is_drawn_integrates_to_one(result):
    _, axis, x, y = drawn(result)
    assert np.trapezoid(np.where(y > axis.get_ylim()[0], y, 0), x) == pytest.approx(1, abs=1e-2)


def test_ticks_and_band_have_a_legend():
    data = samples("mlp")
    found = hessian(net("mlp"), F.cross_entropy, [data], density=True, steps=20, runs=3, bottom=1)
    figure, axis, _, _ = drawn(found)
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["density", r"$\pm$ 1 standard error over the runs", "computed eigenvalues"]
    ticks = [line for line in axis.lines if line.get_label() == "computed eigenvalues"]
    places = [line.get_xdata()[0] for line in ticks]
    np.testing.assert_allclose(places, [*found.eigenvalues, *found.smallest.values])
    assert "6 eigenvalues exact, the rest from 3 runs" in axis.texts[0].get_text()


def test_eigenvalues_that_have_not_converged_are_told_apart():
    found = hessian(net("mlp"), F.cross_entropy, [samples("mlp")], density=True, watch=lambda products, _: products < 8)
    assert not found.converged.all()
    figure, _, _, _ = drawn(found)
    assert "eigenvalues that have not converged" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_densities_of_several_results_share_axes(result):
    other = hessian(net("mlp"), F.cross_entropy, [samples("mlp")], density=True, steps=20)
    figure = spectrum({"one": result, "two": other})
    assert len({axis.get_ylim() for axis in figure.axes}) == 1
    assert len(figure.legends) == 1

"""Figures of surfaces by their data: shared colours and levels, marks, hatched cells, and the page in a browser."""

import json
import math
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from torch.nn import functional as F

from sharpkit.diagnostics import checkpoint_plane, landscape
from sharpkit.errors import UsageError
from sharpkit.figures.interactive import page
from sharpkit.figures.landscape import landscape as draw
from sharpkit.figures.landscape import scale_of
from tests.diagnostics.support import net, samples

GRID = np.linspace(-1, 1, 7)


@pytest.fixture(scope="module")
def surfaces():
    x, y = samples()
    return {
        name: landscape(net("mlp", seed), F.cross_entropy, [(x, y)], x=GRID, y=GRID[:5], check=False)
        for seed, name in enumerate(("first", "second"))
    }


@pytest.fixture(scope="module")
def profiles():
    x, y = samples()
    return {
        name: landscape(net("mlp", seed), F.cross_entropy, [(x, y)], x=GRID, y=None, check=False)
        for seed, name in enumerate(("first", "second"))
    }


def panels(figure):
    return [axis for axis in figure.axes if axis.get_label() != "<colorbar>"]


@pytest.mark.parametrize("log", [False, True])
def test_panels_share_colours_and_levels(surfaces, log):
    figure = draw(surfaces, log=log)
    figure.canvas.draw()
    first, second = (next(c for c in axis.collections if c.get_array() is not None) for axis in panels(figure))
    np.testing.assert_array_equal(first.levels, second.levels)
    assert (first.norm.vmin, first.norm.vmax) == (second.norm.vmin, second.norm.vmax)
    values = np.concatenate([s.loss.ravel() for s in surfaces.values()])
    assert first.levels[0] <= values.min() < values.max() <= first.levels[-1]
    assert len(figure.axes) == 3
    assert [axis.get_title().splitlines()[0] for axis in panels(figure)] == ["first", "second"]
    assert panels(figure)[0].texts, "levels are labelled"


@pytest.mark.parametrize("style", ["surface", "both"])
def test_surfaces_in_three_dimensions(surfaces, style):
    figure = draw(surfaces, style=style)
    figure.canvas.draw()
    solid = [axis for axis in panels(figure) if axis.name == "3d"]
    assert len(solid) == 2
    assert solid[0].get_zlim() == solid[1].get_zlim()
    assert len(panels(figure)) == (4 if style == "both" else 2)


def test_the_centre_and_other_checkpoints_are_marked():
    model, (x, y) = net("mlp"), samples()
    plane = checkpoint_plane(model, {"u": net("mlp", 1).state_dict(), "v": net("mlp", 2).state_dict()})
    found = landscape(model, F.cross_entropy, [(x, y)], x=GRID, y=GRID, plane=plane)
    (axis,) = panels(draw({"w": found}))
    marks = [line.get_xydata().tolist() for line in axis.lines]
    np.testing.assert_allclose(marks[0], [[1, 0], [0, 1]], atol=1e-9)
    assert marks[-1] == [[0, 0]]
    assert {"u", "v"} <= {text.get_text() for text in axis.texts}
    assert axis.get_xlabel() == "a: towards u"


def test_cells_that_are_not_finite_are_hatched_and_named(surfaces):
    loss = surfaces["first"].loss.copy()
    loss[0, :3], loss[4, 6] = math.nan, math.inf
    broken = replace(surfaces["first"], loss=loss)
    for style in ("contour", "surface"):
        figure = draw({"broken": broken}, style=style)
        figure.canvas.draw()
        assert "4 cells not finite" in panels(figure)[0].get_title()
    axis = panels(draw({"broken": broken}))[0]
    assert axis.patch.get_hatch() == "xxx"
    with pytest.raises(UsageError, match="no cell has a loss"):
        draw({"nothing": replace(broken, loss=np.full_like(loss, math.nan))})


def test_profiles_have_their_losses_and_accuracies(profiles):
    figure = draw(profiles)
    left, right = figure.axes
    for axis, name, factor in ((left, "loss", 1), (right, "accuracy", 100)):
        for result, line in zip(profiles.values(), axis.lines, strict=False):
            np.testing.assert_allclose(line.get_xydata(), np.stack([GRID, factor * getattr(result, name)[0]], 1))
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["first", "second"]


def test_bounds_of_the_colours(surfaces):
    results = list(surfaces.values())
    assert (scale_of(results, False, 0.5, 2).low, scale_of(results, False, 0.5, 2).high) == (0.5, 2)
    levels = scale_of(results, True, 0.03, 40).levels(10)
    assert levels[0] <= 0.03 < levels[1]
    assert levels[-2] < 40 <= levels[-1]
    assert all(f"{level:.1e}"[2] in "0" or f"{level:.0e}"[0] in "1235" for level in levels)
    with pytest.raises(UsageError, match="colours would go from"):
        scale_of(results, False, 1e9, None)


def test_the_page_holds_everything(surfaces, profiles):
    pytest.importorskip("plotly")
    text = page(surfaces)
    assert len(text) > 3e6, "the script is part of the page"
    assert not re.search(r"<(script|link)[^>]+(src|href)=", text)
    assert text.count('"type":"surface"') >= 2
    assert '"type":"scatter"' in page(profiles, log=True)


@pytest.mark.slow
def test_the_page_draws_itself_in_a_browser_without_a_network(surfaces, tmp_path):
    """Needs Chromium or Chrome; skipped where there is none."""
    pytest.importorskip("plotly")
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("there is no Chromium")
    path = tmp_path / "page.html"
    told = (
        "<script>window.addEventListener('load', () => setTimeout(() => {"
        "const drawn = document.querySelector('.js-plotly-plot');"
        "document.title = JSON.stringify([drawn.data.length, drawn.querySelectorAll('canvas').length])"
        "}, 2000))</script>"
    )
    path.write_text(page(surfaces, log=True).replace("</body>", told + "</body>"))
    offline = ["--host-resolver-rules=MAP * ~NOTFOUND", "--enable-unsafe-swiftshader", "--use-gl=swiftshader"]
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--virtual-time-budget=20000", *offline, "--dump-dom", path.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title is not None
    traces, canvases = json.loads(title[1])
    assert traces == 2
    assert canvases >= 2

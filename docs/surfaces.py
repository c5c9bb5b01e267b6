"""Draw the figure of the page on landscapes: the surfaces around two minima, with the same colours."""

from __future__ import annotations

from pathlib import Path

from spectra import trained
from torch.nn import functional

from sharpkit.diagnostics import landscape
from sharpkit.figures.landscape import landscape as figure


def draw(path: Path) -> None:
    """Write the figure."""
    surfaces = {}
    for name, recipe in (("SGD", "sgd"), ("SAM, radius 0.2", "sam:rho=0.2")):
        model, x, y = trained(recipe)
        surfaces[name] = landscape(model, functional.cross_entropy, [(x, y)], adaptive=0.01)
    figure(surfaces, style="both", log=True).savefig(path, dpi=130)

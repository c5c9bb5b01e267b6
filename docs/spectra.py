"""Draw the figure of the page on the Hessian: the spectra of two minima, on common axes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

import sharpkit
from sharpkit.data import DATASETS
from sharpkit.diagnostics import SpectrumResult, hessian
from sharpkit.figures.spectrum import spectrum


def draw(path: Path) -> None:
    """Write the figure."""
    spectrum({"SGD": found("sgd"), "SAM, radius 0.2": found("sam:rho=0.2")}).savefig(path, dpi=150)


def found(recipe: str) -> SpectrumResult:
    """Return the spectrum of a minimum."""
    model, x, y = trained(recipe)
    return hessian(model, functional.cross_entropy, [(x, y)], density=True, runs=4, trace="deflated")


def trained(recipe: str) -> tuple[nn.Module, Tensor, Tensor]:
    """Train a small network on a thousand digits; return it with them."""
    data = DATASETS["digits"]().train
    x, y = data.inputs[:1000], data.targets[:1000]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    opt = sharpkit.SharpnessAware(model, base, recipe, loss=functional.cross_entropy)
    for _ in range(40):
        for rows in torch.randperm(len(x)).split(128):
            opt.step((x[rows], y[rows]))
    return model, x, y

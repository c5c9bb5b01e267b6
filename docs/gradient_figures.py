"""Draw the figures of the pages on gradients and curves."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from spectra import trained
from torch.nn import functional

from sharpkit.commands import plot, train
from sharpkit.commands.plot_config import PlotConfig
from sharpkit.diagnostics import graddiff, gradnorms
from sharpkit.engine.config import TrainConfig
from sharpkit.figures.differences import differences
from sharpkit.figures.norms import norms


def draw(folder: Path) -> None:
    """Write all figures."""
    (sgd, x, y), (sam, _, _) = trained("sgd"), trained("sam:rho=0.2")
    models = {"SGD": sgd, "SAM, radius 0.2": sam}
    generator = torch.Generator().manual_seed(0)
    rows = [part for _ in range(58) for part in torch.randperm(1000, generator=generator).split(128)[:7]][:400]
    batches = [(x[r], y[r]) for r in rows]
    found = {name: graddiff(model, functional.cross_entropy, batches[:7]) for name, model in models.items()}
    differences(found).savefig(folder / "graddiff.png", dpi=150)
    measured = {name: gradnorms(model, functional.cross_entropy, batches) for name, model in models.items()}
    norms(measured).savefig(folder / "gradnorm_qq.png", dpi=150)
    curves(folder / "curves.png")


def curves(path: Path) -> None:
    """Train four times, and draw what was measured."""
    with tempfile.TemporaryDirectory() as folder:
        runs = [
            train.run(
                TrainConfig(
                    model="mlp", epochs=10, limit=600, threads="1", opt=opt, seed=seed, probe="grad-var,lambda-max"
                ),
                Path(folder) / f"{opt}-{seed}",
            ).run_dir
            for opt in ("sgd", "sam:rho=0.2")
            for seed in (0, 1)
        ]
        plot.run(runs, PlotConfig(metric="train_loss,val_acc,grad_var,lambda_max", log_y=True), path)

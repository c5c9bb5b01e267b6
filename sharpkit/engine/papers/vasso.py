"""Li and Giannakis (2023), VaSSO."""

from __future__ import annotations

from collections.abc import Iterator

from sharpkit.engine.papers.common import CUTOUT
from sharpkit.engine.published import Method, Paper, Preset

PAPER = Paper("vasso", "Li and Giannakis (2023)", "Enhancing Sharpness-Aware Optimization Through Variance Suppression")


def presets() -> Iterator[Preset]:
    """Yield the presets of the paper."""
    code = PAPER.code
    script = {
        **code("configs", base="sgd", momentum=0.9, sched="cosine", batch_size=128, epochs=200),
        **code("README and dataset.py: CIFAR with cutout, size 16 and probability 0.5", augment=CUTOUT),
        **code("dataset.py: all 50,000 images for training", val_frac=0.0),
        **code("train.py: CrossEntropyLoss", smoothing=0.0),
    }
    small = {
        **code("README", data="cifar10", model="resnet18", wd=0.001),
        **code("configs; README for SGD", lr=0.05),
        **script,
    }
    rho = code("configs; the README's command gives none", rho=0.05)
    methods = {
        "vasso": Method({**rho, **code("configs", theta=0.9)}),
        "sam": Method(rho),
        "sgd": Method(options=code("README", wd=5e-4)),
    }
    yield PAPER.preset("cifar10", "resnet18", small, methods)
    wide = {**code("train.sh", data="cifar100", model="wrn28-10", lr=0.1, wd=0.001), **script}
    rho = code("train.sh", rho=0.2)
    methods = {"vasso": Method({**rho, **code("train.sh", theta=0.9)}), "sam": Method(rho)}
    yield PAPER.preset("cifar100", "wrn28-10", wide, methods)

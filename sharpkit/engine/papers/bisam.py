"""Xie, Latorre et al. (2024), BiSAM."""

from __future__ import annotations

from collections.abc import Iterator

from sharpkit.engine.papers.common import CUTOUT
from sharpkit.engine.published import Method, Paper, Preset

PAPER = Paper("bisam", "Xie, Latorre et al. (2024)", "Improving SAM Requires Rethinking its Optimization Formulation")


def presets() -> Iterator[Preset]:
    """Yield the presets of the paper."""
    code = PAPER.code
    options = {
        **code("README", data="cifar10", model="resnet56", lr=0.1, epochs=200),
        **code("args.py", momentum=0.9, wd=5e-4, batch_size=128),
        **code("args.py and loss_fnc.py: over the K - 1 other classes", smoothing=0.1, smoothing_over="others"),
        **code("train.py", base="sgd", sched="cosine"),
        **code("cifar.py and cutout.py: crop, flip, and cutout with size 16 and probability 0.5", augment=CUTOUT),
        **code("cifar.py: 45,000 images for training", val_frac=0.1),
        **code("log.py: the weights of the best validation accuracy are tested", save_every="best"),
    }
    rho = code("README", rho=0.05)
    tanh = {
        **code("loss_fnc.py; their args.py passes 1 to both variants", mu=10.0),
        **code("args.py", alpha=0.1),
    }
    methods = {
        "bisam-log": Method({**rho, **code("args.py", mu=1.0)}),
        "bisam-tanh": Method({**rho, **tanh}),
        "sam": Method(rho),
    }
    yield PAPER.preset("cifar10", "resnet56", options, methods)

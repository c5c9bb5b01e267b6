"""Zhao et al. (2022), penalized gradient norm."""

from __future__ import annotations

from collections.abc import Iterator

from sharpkit.engine.published import Method, Paper, Preset

PAPER = Paper(
    "gnp",
    "Zhao et al. (2022)",
    "Penalizing Gradient Norm for Efficiently Improving Generalization in Deep Learning",
)


def presets() -> Iterator[Preset]:
    """Yield the presets of the paper."""
    code = PAPER.code
    config = {
        **code("base_config.py", momentum=0.9, sched="cosine", nesterov=True, clip=5.0, smoothing=0.0),
        **code("training_core.py: in the loss of both passes", wd_in_loss=True),
        **code("base_config.py: use_test_set, all images for training", val_frac=0.0),
    }
    raw = PAPER.says("Algorithm 1; the authors' code defaults to unit since June 2022", reference="raw")
    wide, deep = "wideresnet-cifar.sh", "resnet-imagenet.sh"
    options = {
        **code(wide, data="cifar10", model="wrn28-10", base="sgd", lr=0.1, batch_size=256, epochs=200),
        **code("augmentation.py: crop and flip; they pad by reflection, here by black", augment="basic"),
        **code(wide, wd=0.001),
        **config,
    }
    yield PAPER.preset("cifar10", "wrn28-10", options, {"gnp": Method({**code(wide, rho=0.1, alpha=0.8), **raw})})
    options = {
        **code(deep, data="imagenet", model="torchvision:resnet50", base="sgd", lr=0.2, batch_size=512, epochs=100),
        **code("dataset_source_imagenet.py: random crop and flip", augment="basic"),
        **code(deep, wd=1e-4),
        **config,
    }
    yield PAPER.preset("imagenet", "resnet50", options, {"gnp": Method({**code(deep, rho=0.05, alpha=0.8), **raw})})

"""Kwon et al. (2021), ASAM."""

from __future__ import annotations

from collections.abc import Iterator

from sharpkit.engine.published import Method, Paper, Preset

PAPER = Paper(
    "asam",
    "Kwon et al. (2021)",
    "ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant Learning of Deep Neural Networks",
)


def presets() -> Iterator[Preset]:
    """Yield the presets of the paper."""
    code = PAPER.code
    script = {
        **code(
            "example_cifar.py", model="wrn28-10", base="sgd", lr=0.1, momentum=0.9, wd=5e-4, sched="cosine",
            batch_size=128, epochs=200, augment="basic", val_frac=0.0,
        ),
        **code("example_cifar.py: timm's, over all classes", smoothing=0.1, smoothing_over="all"),
    }  # fmt: skip
    eta = code("example_cifar.py; their class has 0.01", eta=0.0)
    for data, asam, sam in (("cifar10", 0.5, 0.05), ("cifar100", 1.0, 0.1)):
        methods = {"asam": Method({**code("README", rho=asam), **eta}), "sam": Method(code("README", rho=sam))}
        yield PAPER.preset(data, "wrn28-10", {**code("README", data=data), **script}, methods)

"""Du et al. (2022), ESAM."""

from __future__ import annotations

from collections.abc import Iterator

from sharpkit.engine.papers.common import CIFAR, CUTOUT
from sharpkit.engine.published import Method, Paper, Preset

PAPER = Paper(
    "esam", "Du et al. (2022)", "Efficient Sharpness-Aware Minimization for Improved Training of Neural Networks"
)


def presets() -> Iterator[Preset]:
    """Yield the presets of the paper."""
    code = PAPER.code
    script = {
        **code("train.py", base="sgd", momentum=0.9, sched="cosine"),
        **code("cifar.py and cutout.py: crop, flip, and cutout with size 16 and probability 0.5", augment=CUTOUT),
        **code("cifar.py", val_frac=0.0),
        **code("train.py: CrossEntropyLoss", smoothing=0.0),
    }
    for data in CIFAR:
        small = {
            **code("run.sh", data=data, model="resnet18", lr=0.05, wd=0.001),
            **code("run.sh: 64 on each of 2 devices; an earlier version has 4", batch_size=128),
            **code("options.py", epochs=200),
            **script,
        }
        own = Method(code("run.sh", rho=0.05, beta=0.6, gamma=0.5))
        yield PAPER.preset(data, "resnet18", small, {"esam": own})
        large = {
            **code("run.sh", data=data, model="pyramidnet110", lr=0.05, wd=5e-4, epochs=300),
            **code("run.sh: 64 on each of 4 devices", batch_size=256),
            **script,
        }
        own = Method(code("run.sh", rho=0.2, beta=0.5, gamma=0.5))
        yield PAPER.preset(data, "pyramidnet110", large, {"esam": own})

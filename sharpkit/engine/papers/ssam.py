"""Mi et al. (2022), Sparse SAM."""

from __future__ import annotations

from collections.abc import Iterator

from sharpkit.engine.papers.common import CUTOUT
from sharpkit.engine.published import Method, Paper, Preset, Values

PAPER = Paper(
    "ssam", "Mi et al. (2022)", "Make Sharpness-Aware Minimization Stronger: A Sparsified Perturbation Approach"
)


def presets() -> Iterator[Preset]:
    """Yield the presets of the paper."""
    says, code = PAPER.says, PAPER.code
    # The experiments go from 0.5 to 0.99; one value must be first, and it is that of the training curves.
    half = says("figure 2 and the authors' README; tables 1-3 go from 0.5 to 0.99", sparsity=0.5)
    drop = code("defaulf_cfg.py: drop_rate; the text gives no value", alpha=0.5)

    def methods(rho: Values, sgd: Values, samples: int, where: str) -> dict[str, Method]:
        masks = code(f"README, {where}; the text does not say which tables have which", tm=1)
        fisher = code(f"README, {where}; the text does not say which tables have which", nf=samples)
        return {
            "ssam-f": Method({**rho, **half, **fisher, **masks}),
            "ssam-d": Method({**rho, **half, **drop, **masks}),
            "sam": Method(rho),
            "sgd": Method(options=sgd),
        }

    cifar = {
        **says("section 5.1", base="sgd", momentum=0.9, lr=0.05, sched="cosine", batch_size=128, epochs=200),
        **says("section 5.1: SAM and SSAM; SGD has 5e-4", wd=0.001),
        **code("dataset.py: size 16, probability 0.5; section 5.1 says crop, flip and cutout", augment=CUTOUT),
        **says("section 5.1: 50,000 images for training", val_frac=0.0),
        **code("train.py: CrossEntropyLoss", smoothing=0.0),
    }
    plain = says("section 5.1", wd=5e-4)
    told = "for ResNet-18 on CIFAR-10"
    for data, rho in (("cifar10", 0.1), ("cifar100", 0.2)):
        for model, table in (("resnet18", "table 1"), ("wrn28-10", "table 2")):
            options = {**says(f"section 5.2, {table}", data=data, model=model), **cifar}
            radius = says("section 5.1 and table 5", rho=rho)
            yield PAPER.preset(data, model, options, methods(radius, plain, 16, told))
    vgg = {
        **says("appendix B, table 4", data="cifar10"),
        **code("models/vgg.py: hidden layers of 4096 units; appendix B says VGG11-BN", model="vgg11-bn-4096"),
        **cifar,
    }
    yield PAPER.preset("cifar10", "vgg11-bn", vgg, methods(says("appendix B", rho=0.05), plain, 16, told))
    imagenet = {
        **says("section 5.2, table 3", data="imagenet", model="torchvision:resnet50"),
        **says("section 5.1", base="sgd", momentum=0.9, wd=1e-4, lr=0.1, sched="cosine", batch_size=256),
        **says("section 5.1: resized and cropped to 224x224, flipped", augment="basic"),
        **says("section 5.1: 1,281,167 images for training", val_frac=0.0),
        **code("README; the text does not say", epochs=90),
        **code("train.py: CrossEntropyLoss", smoothing=0.0),
    }
    rho = says("section 5.1 and table 6; the authors' README has 0.7", rho=0.07)
    yield PAPER.preset("imagenet", "resnet50", imagenet, methods(rho, {}, 128, "for ResNet-50 on ImageNet"))

"""Jiang et al. (2023), AE-SAM. No code of the authors is public, so a value is the paper's or ours."""

from __future__ import annotations

from collections.abc import Iterator

from sharpkit.engine.papers.common import CIFAR, NOISE, noisy
from sharpkit.engine.published import Method, Paper, Preset, Value, Values, ours

PAPER = Paper("aesam", "Jiang et al. (2023)", "An Adaptive Policy to Employ Sharpness-Aware Minimization")

_RHO = "section 4.1 searches {0.01, 0.02, 0.05, 0.1, 0.2, 0.5} for each method and does not tell what was found"
_ALPHA = "section 4.1 searches {0.1, 0.3, 0.6, 0.9} and does not tell what was found"


def presets() -> Iterator[Preset]:
    """Yield the presets of the paper."""
    says = PAPER.says
    delta = says("section 3.2, below eq. (5)", delta=0.9)
    alpha = ours(_ALPHA, alpha=0.6)
    subsets = ours("not said; the authors of ESAM train ResNet-18 with these", beta=0.6, gamma=0.5)

    def methods(place: str, lams: tuple[float, float], k: int, rho: Values) -> dict[str, Method]:
        """The paper's adaptive methods and its baselines; lams are those of AE-LookSAM."""
        coin = says("section 4.1, baseline (iv)", p=0.5)
        return {
            "ae-sam": Method({**rho, **says(place, lam1=-1.0, lam2=1.0), **delta}),
            "ae-looksam": Method({**rho, **says(place, lam1=lams[0], lam2=lams[1]), **delta, **alpha}),
            "sam": Method(rho),
            "sgd": Method(),
            "ss-sam": Method({**rho, **coin}),
            "looksam": Method({**rho, **says(place, k=k), **alpha}),
            "esam": Method({**rho, **subsets}),
        }

    def common(place: str) -> dict[str, Value]:
        return {
            **says(place, base="sgd", momentum=0.9, wd=1e-4, lr=0.1, sched="cosine"),
            **ours("the paper does not say how images are augmented", augment="basic"),
        }

    searched = ours(f"{_RHO}; one for all methods", rho=0.1)
    for data in CIFAR:
        for model, epochs in (("resnet18", 200), ("wrn28-10", 200), ("pyramidnet110", 300), ("vit-s16", 1200)):
            options = {
                **says("section 4.1, table 1", data=data, model=model),
                **common("section 4.1"),
                **says("section 4.1", batch_size=128, epochs=epochs, val_frac=0.1),
            }
            yield PAPER.preset(data, model, options, methods("section 4.1", (0.0, 2.0), 5, searched))
    imagenet = {
        **says("section 4.2", data="imagenet", model="torchvision:resnet50"),
        **common("section 4.2"),
        **says("section 4.2", batch_size=512, epochs=90),
        **ours("section 4.2 holds out nothing and searches nothing", val_frac=0.0),
    }
    rho = says("section 4.2", rho=0.05)
    yield PAPER.preset("imagenet", "resnet50", imagenet, methods("section 4.2", (0.0, 2.0), 5, rho))
    for noise in NOISE:
        for model in ("resnet18", "resnet32"):
            options = {
                **says("section 4.3, table 3", data="cifar10", model=model, label_noise=noise),
                **common("section 4.3"),
                **says("section 4.3", batch_size=128, epochs=200),
                **ours("section 4.3 does not say; as in section 4.1", val_frac=0.1),
            }
            yield PAPER.preset(noisy(noise), model, options, methods("section 4.3", (-1.0, 1.0), 2, searched))

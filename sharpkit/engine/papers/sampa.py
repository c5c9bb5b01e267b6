"""Xie, Pethick, Cevher (2024), SAMPa."""

from __future__ import annotations

from collections.abc import Iterator

from sharpkit.engine.papers.common import CUTOUT, NOISE, noisy
from sharpkit.engine.published import Method, Paper, Preset, Value, Values, ours

PAPER = Paper("sampa", "Xie, Pethick, Cevher (2024)", "SAMPa: Sharpness-Aware Minimization Parallelized")

GLUE = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli")
NETWORKS = {"densenet121": "densenet121", "resnet56": "resnet56", "vgg19-bn": "vgg19-bn", "wrn28-2": "wrn34-2",
            "wrn28-10": "wrn34-10"}  # fmt: skip
"""What the authors' code builds for what the paper names."""


def presets() -> Iterator[Preset]:
    """Yield the presets of the paper."""
    says, code = PAPER.says, PAPER.code
    script = {
        **code("train.py", base="sgd", momentum=0.9, wd=5e-4, lr=0.1, sched="cosine", batch_size=128),
        **code("utility.py: over the K - 1 other classes", smoothing=0.1, smoothing_over="others"),
        **code("train.py: the weights of the best validation accuracy are tested", save_every="best"),
        **code("get_dataset.py: 45,000 images for training", val_frac=0.1),
        **code("get_dataset.py: crop, flip, and cutout with size 16 and probability 0.5", augment=CUTOUT),
    }
    rho = code("README and train.py", rho=0.1)
    # The code has SAMPa only. A radius of its own for SAM would make of a comparison of methods one of radii.
    same = ours("the authors' code has SAMPa only and the tables do not say; the radius of SAMPa there", rho=0.1)
    for data, table in (("cifar10", "table 1"), ("cifar100", "table 2")):
        for name, model in NETWORKS.items():
            methods = {
                "sampa": Method({**rho, **says(f"{table}: SAMPa-0.2", lam=0.2)}),
                "sam": Method(same),
                "sgd": Method(options=says(f"{table}: as many sequential gradients as SAM", epochs=400)),
            }
            if (data, name) == ("cifar10", "resnet56"):  # table 4 compares more of them
                methods |= dict.fromkeys(("looksam", "ae-sam", "esam"), Method(same))
            options = {**says(table, data=data, epochs=200), **_network(name, model, table), **script}
            yield PAPER.preset(data, name, options, methods)
    for noise in NOISE:
        options = {
            **says("table 7", data="cifar10", model="resnet32", label_noise=noise),
            **code("README; table 7 does not say", epochs=200),
            **script,
        }
        noisy_methods = {
            "sampa": Method({**rho, **says("table 7: SAMPa-0.2", lam=0.2)}),
            "sam": Method(same),
            "sgd": Method(),
        }
        yield PAPER.preset(noisy(noise), "resnet32", options, noisy_methods)
    yield from _fine_tuning()


def _network(name: str, model: str, table: str) -> dict[str, Value]:
    if name == model:
        return PAPER.says(table, model=model)
    built = f"wide_res_net.py: 5 blocks a stage; {table} says {name.upper()}"
    return PAPER.code(built, model=model)


def _fine_tuning() -> Iterator[Preset]:
    """Yield the presets of table 6; neither the paper's text nor its code for texts was at hand."""
    says = PAPER.says
    search = "table 6 does not say; from the search of Devlin et al. (2019), appendix A.3"
    rho: Values = ours("table 6 does not say; one for all methods", rho=0.05)
    for task in GLUE:
        options = {
            **says("table 6", data=f"glue:{task}", model="hf:bert-base", base="adamw"),
            **ours(search, lr=2e-5, batch_size=32, epochs=3),
            **ours("table 6 does not say", wd=0.01, sched="cosine"),
        }
        methods = {
            "sampa": Method({**rho, **says("table 6: SAMPa-0.1", lam=0.1)}),
            "sam": Method(rho),
            "sgd": Method(),
        }
        yield PAPER.preset(f"glue:{task}", "bert-base", options, methods)

"""`PRESETS`: what papers and their authors' code say they trained with. What they do not say is not here.

Where text and code disagree, the source says so and which of them is followed. Every value was read in the text or the
code that its source names.
"""

from __future__ import annotations

from collections.abc import Iterator

from sharpkit.engine.published import Method, Paper, Preset, Value, Values

_CIFAR = ("cifar10", "cifar100")
_NOISE = (0.2, 0.4, 0.6, 0.8)


def _ssam() -> Iterator[Preset]:
    paper = Paper(
        "ssam",
        "Mi et al. (2022)",
        "Make Sharpness-Aware Minimization Stronger: A Sparsified Perturbation Approach",
    )
    says = paper.says
    # The experiments go from 0.5 to 0.99; one value must be first, and it is that of the training curves.
    half = says("figure 2 and the authors' README; tables 1-3 go from 0.5 to 0.99", sparsity=0.5)

    def methods(rho: Values, sgd: Values) -> dict[str, Method]:
        sparse = Method({**rho, **half})
        return {"ssam-f": sparse, "ssam-d": sparse, "sam": Method(rho), "sgd": Method(options=sgd)}

    cifar = {
        **says("section 5.1", base="sgd", momentum=0.9, lr=0.05, sched="cosine", batch_size=128, epochs=200),
        **says("section 5.1: SAM and SSAM; SGD has 5e-4", wd=0.001),
        **says("section 5.1: crop, flip, cutout", augment="cutout"),
        **says("section 5.1: 50,000 images for training", val_frac=0.0),
    }
    plain = says("section 5.1", wd=5e-4)
    for data, rho in (("cifar10", 0.1), ("cifar100", 0.2)):
        for model, table in (("resnet18", "table 1"), ("wrn28-10", "table 2")):
            options = {**says(f"section 5.2, {table}", data=data, model=model), **cifar}
            yield paper.preset(data, model, options, methods(says("section 5.1 and table 5", rho=rho), plain))
    vgg = {**says("appendix B, table 4", data="cifar10", model="vgg11-bn"), **cifar}
    yield paper.preset("cifar10", "vgg11-bn", vgg, methods(says("appendix B", rho=0.05), plain))
    imagenet = {
        **says("section 5.2, table 3", data="imagenet", model="torchvision:resnet50"),
        **says("section 5.1", base="sgd", momentum=0.9, wd=1e-4, lr=0.1, sched="cosine", batch_size=256),
        **says("section 5.1: 1,281,167 images for training", val_frac=0.0),
        **says("the authors' README; the text does not say", epochs=90),
    }
    rho = says("section 5.1 and table 6; the authors' README has 0.7", rho=0.07)
    yield paper.preset("imagenet", "resnet50", imagenet, methods(rho, {}))


def _aesam() -> Iterator[Preset]:
    paper = Paper("aesam", "Jiang et al. (2023)", "An Adaptive Policy to Employ Sharpness-Aware Minimization")
    says = paper.says
    delta = says("section 3.2, below eq. (5)", delta=0.9)

    def methods(place: str, lams: tuple[float, float], k: int, rho: Values) -> dict[str, Method]:
        """The paper's adaptive methods and its baselines; lams are those of AE-LookSAM."""
        coin = says("section 4.1, baseline (iv)", p=0.5)
        return {
            "ae-sam": Method({**rho, **says(place, lam1=-1.0, lam2=1.0), **delta}),
            "ae-looksam": Method({**rho, **says(place, lam1=lams[0], lam2=lams[1]), **delta}),
            "sam": Method(rho),
            "sgd": Method(),
            "ss-sam": Method({**rho, **coin}),
            "looksam": Method({**rho, **says(place, k=k)}),
            "esam": Method(rho),
        }

    def common(place: str) -> dict[str, Value]:
        return says(place, base="sgd", momentum=0.9, wd=1e-4, lr=0.1, sched="cosine")

    for data in _CIFAR:
        for model, epochs in (("resnet18", 200), ("wrn28-10", 200), ("pyramidnet110", 300), ("vit-s16", 1200)):
            options = {
                **says("section 4.1, table 1", data=data, model=model),
                **common("section 4.1"),
                **says("section 4.1", batch_size=128, epochs=epochs, val_frac=0.1),
            }
            yield paper.preset(data, model, options, methods("section 4.1", (0.0, 2.0), 5, {}))
    imagenet = {
        **says("section 4.2", data="imagenet", model="torchvision:resnet50"),
        **common("section 4.2"),
        **says("section 4.2", batch_size=512, epochs=90),
    }
    rho = says("section 4.2", rho=0.05)
    yield paper.preset("imagenet", "resnet50", imagenet, methods("section 4.2", (0.0, 2.0), 5, rho))
    for noise in _NOISE:
        for model in ("resnet18", "resnet32"):
            options = {
                **says("section 4.3, table 3", data="cifar10", model=model, label_noise=noise),
                **common("section 4.3"),
                **says("section 4.3", batch_size=128, epochs=200),
            }
            yield paper.preset(_noisy(noise), model, options, methods("section 4.3", (-1.0, 1.0), 2, {}))


def _sampa() -> Iterator[Preset]:
    paper = Paper("sampa", "Xie, Pethick, Cevher (2024)", "SAMPa: Sharpness-Aware Minimization Parallelized")
    says = paper.says
    script = {
        **says("authors' train.py", base="sgd", momentum=0.9, wd=5e-4, lr=0.1, sched="cosine", batch_size=128),
        **says("authors' train.py", smoothing=0.1, save_every="best"),
        **says("authors' get_dataset.py", val_frac=0.1),
        **says("authors' get_dataset.py: crop, flip, and cutout with probability 0.5", augment="cutout"),
    }
    rho = says("authors' README and train.py", rho=0.1)
    for data, table in (("cifar10", "table 1"), ("cifar100", "table 2")):
        methods = {
            "sampa": Method({**rho, **says(f"{table}: SAMPa-0.2", lam=0.2)}),
            "sam": Method(),
            "sgd": Method(options=says(f"{table}: as many sequential gradients as SAM", epochs=400)),
        }
        for model in ("densenet121", "resnet56", "vgg19-bn", "wrn28-2", "wrn28-10"):
            options = {**says(table, data=data, model=model, epochs=200), **script}
            yield paper.preset(data, model, options, methods)
    for noise in _NOISE:
        options = {
            **says("table 7", data="cifar10", model="resnet32", label_noise=noise),
            **says("authors' README; table 7 does not say", epochs=200),
            **script,
        }
        noisy = {"sampa": Method({**rho, **says("table 7: SAMPa-0.2", lam=0.2)}), "sam": Method(), "sgd": Method()}
        yield paper.preset(_noisy(noise), "resnet32", options, noisy)


def _asam() -> Iterator[Preset]:
    paper = Paper(
        "asam",
        "Kwon et al. (2021)",
        "ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant Learning of Deep Neural Networks",
    )
    says = paper.says
    script = says(
        "authors' example_cifar.py", model="wrn28-10", base="sgd", lr=0.1, momentum=0.9, wd=5e-4, sched="cosine",
        batch_size=128, epochs=200, smoothing=0.1, augment="basic", val_frac=0.0,
    )  # fmt: skip
    eta = says("authors' example_cifar.py; their class has 0.01", eta=0.0)
    for data, asam, sam in (("cifar10", 0.5, 0.05), ("cifar100", 1.0, 0.1)):
        methods = {
            "asam": Method({**says("authors' README", rho=asam), **eta}),
            "sam": Method(says("authors' README", rho=sam)),
        }
        yield paper.preset(data, "wrn28-10", {**says("authors' README", data=data), **script}, methods)


def _esam() -> Iterator[Preset]:
    paper = Paper(
        "esam", "Du et al. (2022)", "Efficient Sharpness-Aware Minimization for Improved Training of Neural Networks"
    )
    says = paper.says
    script = {
        **says("authors' train.py", base="sgd", momentum=0.9, sched="cosine"),
        **says("authors' cifar.py: crop, flip, cutout", augment="cutout"),
        **says("authors' cifar.py", val_frac=0.0),
    }
    for data in _CIFAR:
        small = {
            **says("authors' run.sh", data=data, model="resnet18", lr=0.05, wd=0.001),
            **says("authors' run.sh: 64 on each of 2 devices; an earlier version has 4", batch_size=128),
            **says("authors' options.py", epochs=200),
            **script,
        }
        yield paper.preset(
            data, "resnet18", small, {"esam": Method(says("authors' run.sh", rho=0.05, beta=0.6, gamma=0.5))}
        )
        large = {
            **says("authors' run.sh", data=data, model="pyramidnet110", lr=0.05, wd=5e-4, epochs=300),
            **says("authors' run.sh: 64 on each of 4 devices", batch_size=256),
            **script,
        }
        yield paper.preset(
            data, "pyramidnet110", large, {"esam": Method(says("authors' run.sh", rho=0.2, beta=0.5, gamma=0.5))}
        )


def _vasso() -> Iterator[Preset]:
    paper = Paper(
        "vasso",
        "Li and Giannakis (2023)",
        "Enhancing Sharpness-Aware Optimization Through Variance Suppression",
    )
    says = paper.says
    script = {
        **says("authors' configs", base="sgd", momentum=0.9, sched="cosine", batch_size=128, epochs=200),
        **says("authors' README: CIFAR with cutout", augment="cutout"),
    }
    small = {
        **says("authors' README", data="cifar10", model="resnet18", wd=0.001),
        **says("authors' configs; README for SGD", lr=0.05),
        **script,
    }
    rho = says("authors' configs; the README's command gives none", rho=0.05)
    methods = {
        "vasso": Method({**rho, **says("authors' configs", theta=0.9)}),
        "sam": Method(rho),
        "sgd": Method(options=says("authors' README", wd=5e-4)),
    }
    yield paper.preset("cifar10", "resnet18", small, methods)
    wide = {**says("authors' train.sh", data="cifar100", model="wrn28-10", lr=0.1, wd=0.001), **script}
    rho = says("authors' train.sh", rho=0.2)
    methods = {"vasso": Method({**rho, **says("authors' train.sh", theta=0.9)}), "sam": Method(rho)}
    yield paper.preset("cifar100", "wrn28-10", wide, methods)


def _bisam() -> Iterator[Preset]:
    paper = Paper(
        "bisam", "Xie, Latorre et al. (2024)", "Improving SAM Requires Rethinking its Optimization Formulation"
    )
    says = paper.says
    options = {
        **says("authors' README", data="cifar10", model="resnet56", lr=0.1, epochs=200),
        **says("authors' args.py", momentum=0.9, wd=5e-4, batch_size=128, smoothing=0.1),
        **says("authors' train.py", base="sgd", sched="cosine"),
        **says("authors' cifar.py: crop, flip, cutout", augment="cutout"),
    }
    rho = says("authors' README", rho=0.05)
    tanh = {
        **says("authors' loss_fnc.py; their args.py passes 1 to both variants", mu=10.0),
        **says("authors' args.py", alpha=0.1),
    }
    methods = {
        "bisam-log": Method({**rho, **says("authors' args.py", mu=1.0)}),
        "bisam-tanh": Method({**rho, **tanh}),
        "sam": Method(rho),
    }
    yield paper.preset("cifar10", "resnet56", options, methods)


def _gnp() -> Iterator[Preset]:
    paper = Paper(
        "gnp",
        "Zhao et al. (2022)",
        "Penalizing Gradient Norm for Efficiently Improving Generalization in Deep Learning",
    )
    says = paper.says
    config = says("authors' base_config.py", sched="cosine", nesterov=True, clip=5.0, smoothing=0.0)
    raw = says("Algorithm 1; the authors' code defaults to unit since June 2022", reference="raw")
    wide, deep = "authors' wideresnet-cifar.sh", "authors' resnet-imagenet.sh"
    decay = "; there in the loss of both passes, here the base optimizer's"
    options = {
        **says(wide, data="cifar10", model="wrn28-10", base="sgd", lr=0.1, batch_size=256, epochs=200, augment="basic"),
        **says(wide + decay, wd=0.001),
        **config,
    }
    yield paper.preset("cifar10", "wrn28-10", options, {"gnp": Method({**says(wide, rho=0.1, alpha=0.8), **raw})})
    options = {
        **says(deep, data="imagenet", model="torchvision:resnet50", base="sgd", lr=0.2, batch_size=512, epochs=100),
        **says(deep + decay, wd=1e-4),
        **config,
    }
    yield paper.preset("imagenet", "resnet50", options, {"gnp": Method({**says(deep, rho=0.05, alpha=0.8), **raw})})


def _noisy(noise: float) -> str:
    return f"cifar10-noise{100 * noise:.0f}"


_ALL = (_ssam, _aesam, _sampa, _asam, _esam, _vasso, _bisam, _gnp)

PRESETS: dict[str, Preset] = {preset.name: preset for paper in _ALL for preset in paper()}

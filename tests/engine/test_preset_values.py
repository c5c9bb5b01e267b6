"""Every value of every preset, with who says it, against a table that was typed from the papers and their code.

A value is written `name=value/origin`: p the paper, c its authors' code, o ours. `|` stands for the colon in a value.
"""

import pytest

from sharpkit.engine.papers import PRESETS

ORIGIN = {"p": "paper", "c": "authors' code", "o": "ours"}

# Mi et al. (2022), section 5.1; the authors' data/dataset.py (Cutout(size=16, p=0.5)) and train.py (CrossEntropyLoss)
SSAM = (
    "base=sgd/p momentum=0.9/p lr=0.05/p sched=cosine/p batch_size=128/p epochs=200/p wd=0.001/p val_frac=0.0/p "
    "augment=cutout|size=16|prob=0.5/c smoothing=0.0/c"
)
SSAM_IMAGENET = (
    "data=imagenet/p model=torchvision|resnet50/p base=sgd/p momentum=0.9/p lr=0.1/p sched=cosine/p batch_size=256/p "
    "epochs=90/c wd=0.0001/p val_frac=0.0/p augment=basic/p smoothing=0.0/c"
)


def ssam(rho, nf, sgd="wd=0.0005/p"):
    """README: --sparsity 0.5 --num_samples NF --update_freq 1; defaulf_cfg.py: drop_rate 0.5."""
    return {
        "ssam-f": f"rho={rho}/p sparsity=0.5/p nf={nf}/c tm=1/c",
        "ssam-d": f"rho={rho}/p sparsity=0.5/p alpha=0.5/c tm=1/c",
        "sam": f"rho={rho}/p",
        "sgd": sgd,
    }


# Jiang et al. (2023): no code. Sections 4.1, 4.2 and 4.3.
AESAM = "base=sgd/p momentum=0.9/p wd=0.0001/p lr=0.1/p sched=cosine/p augment=basic/o"


def aesam(rho, lams, k):
    return {
        "ae-sam": f"rho={rho} lam1=-1.0/p lam2=1.0/p delta=0.9/p",
        "ae-looksam": f"rho={rho} lam1={lams[0]}/p lam2={lams[1]}/p delta=0.9/p alpha=0.6/o",
        "sam": f"rho={rho}",
        "sgd": "",
        "ss-sam": f"rho={rho} p=0.5/p",
        "looksam": f"rho={rho} k={k}/p alpha=0.6/o",
        "esam": f"rho={rho} beta=0.6/o gamma=0.5/o",
    }


# Xie, Pethick, Cevher (2024): train.py, utility.py, get_dataset.py, model/wide_res_net.py
SAMPA = (
    "base=sgd/c momentum=0.9/c wd=0.0005/c lr=0.1/c sched=cosine/c batch_size=128/c smoothing=0.1/c "
    "smoothing_over=others/c save_every=best/c val_frac=0.1/c augment=cutout|size=16|prob=0.5/c"
)
SAMPA_METHODS = {"sampa": "rho=0.1/c lam=0.2/p", "sam": "rho=0.1/o", "sgd": "epochs=400/p"}
TABLE_4 = dict.fromkeys(("looksam", "ae-sam", "esam"), "rho=0.1/o")
GLUE = "base=adamw/p model=hf|bert-base/p lr=2e-05/o batch_size=32/o epochs=3/o wd=0.01/o sched=cosine/o"

# Du et al. (2022): run.sh, options.py, utils/cifar.py, utils/cutout.py
ESAM = (
    "base=sgd/c momentum=0.9/c sched=cosine/c lr=0.05/c augment=cutout|size=16|prob=0.5/c val_frac=0.0/c "
    "smoothing=0.0/c"
)
# Li and Giannakis (2023): configs, README, train.sh, data/dataset.py
VASSO = (
    "base=sgd/c momentum=0.9/c sched=cosine/c batch_size=128/c epochs=200/c augment=cutout|size=16|prob=0.5/c "
    "val_frac=0.0/c smoothing=0.0/c wd=0.001/c"
)
# Kwon et al. (2021): example_cifar.py, README
ASAM = (
    "model=wrn28-10/c base=sgd/c lr=0.1/c momentum=0.9/c wd=0.0005/c sched=cosine/c batch_size=128/c epochs=200/c "
    "augment=basic/c val_frac=0.0/c smoothing=0.1/c smoothing_over=all/c"
)
# Zhao et al. (2022): recipes/*.sh, config/base_config.py
GNP = (
    "base=sgd/c momentum=0.9/c sched=cosine/c nesterov=True/c clip=5.0/c smoothing=0.0/c val_frac=0.0/c "
    "augment=basic/c wd_in_loss=True/c"
)

EXPECTED = {
    "ssam/cifar10/resnet18": (f"data=cifar10/p model=resnet18/p {SSAM}", ssam(0.1, 16)),
    "ssam/cifar10/wrn28-10": (f"data=cifar10/p model=wrn28-10/p {SSAM}", ssam(0.1, 16)),
    "ssam/cifar100/resnet18": (f"data=cifar100/p model=resnet18/p {SSAM}", ssam(0.2, 16)),
    "ssam/cifar100/wrn28-10": (f"data=cifar100/p model=wrn28-10/p {SSAM}", ssam(0.2, 16)),
    "ssam/cifar10/vgg11-bn": (f"data=cifar10/p model=vgg11-bn-4096/c {SSAM}", ssam(0.05, 16)),
    "ssam/imagenet/resnet50": (SSAM_IMAGENET, ssam(0.07, 128, sgd="")),
    "aesam/imagenet/resnet50": (
        f"data=imagenet/p model=torchvision|resnet50/p {AESAM} batch_size=512/p epochs=90/p val_frac=0.0/o",
        aesam("0.05/p", (0.0, 2.0), 5),
    ),
    "asam/cifar10/wrn28-10": (f"data=cifar10/c {ASAM}", {"asam": "rho=0.5/c eta=0.0/c", "sam": "rho=0.05/c"}),
    "asam/cifar100/wrn28-10": (f"data=cifar100/c {ASAM}", {"asam": "rho=1.0/c eta=0.0/c", "sam": "rho=0.1/c"}),
    "vasso/cifar10/resnet18": (
        f"data=cifar10/c model=resnet18/c lr=0.05/c {VASSO}",
        {"vasso": "rho=0.05/c theta=0.9/c", "sam": "rho=0.05/c", "sgd": "wd=0.0005/c"},
    ),
    "vasso/cifar100/wrn28-10": (
        f"data=cifar100/c model=wrn28-10/c lr=0.1/c {VASSO}",
        {"vasso": "rho=0.2/c theta=0.9/c", "sam": "rho=0.2/c"},
    ),
    # Xie, Latorre et al. (2024): README, args.py, loss_fnc.py, utility/cifar.py, utility/log.py
    "bisam/cifar10/resnet56": (
        f"data=cifar10/c model=resnet56/c epochs=200/c {SAMPA}",
        {
            "bisam-log": "rho=0.05/c mu=1.0/c",
            "bisam-tanh": "rho=0.05/c mu=10.0/c alpha=0.1/c",
            "sam": "rho=0.05/c",
        },
    ),
    "gnp/cifar10/wrn28-10": (
        f"data=cifar10/c model=wrn28-10/c lr=0.1/c batch_size=256/c epochs=200/c wd=0.001/c {GNP}",
        {"gnp": "rho=0.1/c alpha=0.8/c reference=raw/p"},
    ),
    "gnp/imagenet/resnet50": (
        f"data=imagenet/c model=torchvision|resnet50/c lr=0.2/c batch_size=512/c epochs=100/c wd=0.0001/c {GNP}",
        {"gnp": "rho=0.05/c alpha=0.8/c reference=raw/p"},
    ),
}
for data in ("cifar10", "cifar100"):
    for model, epochs in {"resnet18": 200, "wrn28-10": 200, "pyramidnet110": 300, "vit-s16": 1200}.items():
        EXPECTED[f"aesam/{data}/{model}"] = (
            f"data={data}/p model={model}/p {AESAM} batch_size=128/p epochs={epochs}/p val_frac=0.1/p",
            aesam("0.1/o", (0.0, 2.0), 5),
        )
    for name, model in {
        "densenet121": "densenet121/p", "resnet56": "resnet56/p", "vgg19-bn": "vgg19-bn/p", "wrn28-2": "wrn34-2/c",
        "wrn28-10": "wrn34-10/c",
    }.items():  # fmt: skip
        more = TABLE_4 if (data, name) == ("cifar10", "resnet56") else {}
        EXPECTED[f"sampa/{data}/{name}"] = (
            f"data={data}/p model={model} epochs=200/p {SAMPA}", SAMPA_METHODS | more
        )  # fmt: skip
    EXPECTED[f"esam/{data}/resnet18"] = (
        f"data={data}/c model=resnet18/c wd=0.001/c batch_size=128/c epochs=200/c {ESAM}",
        {"esam": "rho=0.05/c beta=0.6/c gamma=0.5/c"},
    )
    EXPECTED[f"esam/{data}/pyramidnet110"] = (
        f"data={data}/c model=pyramidnet110/c wd=0.0005/c batch_size=256/c epochs=300/c {ESAM}",
        {"esam": "rho=0.2/c beta=0.5/c gamma=0.5/c"},
    )
for percent in (20, 40, 60, 80):
    noise = f"data=cifar10/p label_noise={percent / 100}/p"
    for model in ("resnet18", "resnet32"):
        EXPECTED[f"aesam/cifar10-noise{percent}/{model}"] = (
            f"{noise} model={model}/p {AESAM} batch_size=128/p epochs=200/p val_frac=0.1/o",
            aesam("0.1/o", (-1.0, 1.0), 2),
        )
    EXPECTED[f"sampa/cifar10-noise{percent}/resnet32"] = (
        f"{noise} model=resnet32/p epochs=200/c {SAMPA}", SAMPA_METHODS | {"sgd": ""}
    )  # fmt: skip
for task in ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"):
    EXPECTED[f"sampa/glue:{task}/bert-base"] = (
        f"data=glue|{task}/p {GLUE}",
        {"sampa": "rho=0.05/o lam=0.1/p", "sam": "rho=0.05/o", "sgd": ""},
    )


def typed(text):
    pairs = (item.split("=", 1) for item in text.split())
    parts = {name: said.rpartition("/") for name, said in pairs}
    return {name: (value.replace("|", ":"), ORIGIN[origin]) for name, (value, _, origin) in parts.items()}


def held(values):
    return {name: (str(value.value), value.origin) for name, value in values.items()}


def test_every_preset_is_typed_here():
    assert set(EXPECTED) == set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_a_presets_options_and_their_origins_are_those_of_its_sources(name):
    assert held(PRESETS[name].options) == typed(EXPECTED[name][0])


@pytest.mark.parametrize("name", PRESETS)
def test_a_presets_recipes_and_their_origins_are_those_of_its_sources(name):
    found = {method: held({**m.parameters, **m.options}) for method, m in PRESETS[name].methods.items()}
    assert found == {method: typed(text) for method, text in EXPECTED[name][1].items()}


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_a_source_names_what_its_origin_says(preset):
    for _, value in preset.rows():
        code = value.source.startswith(f"{preset.cited}, authors' ")
        paper = value.source.startswith(f"{preset.cited}, ") and not code
        reason = value.source.startswith("ours: ") and len(value.source) > 15
        assert (paper, code, reason) == tuple(value.origin == one for one in ORIGIN.values()), value


@pytest.mark.parametrize("name", [name for name in PRESETS if name.split("/")[0] in ("aesam", "sampa")])
def test_radii_that_are_ours_are_the_same_for_every_recipe(name):
    radii = {m.parameters["rho"].value for m in PRESETS[name].methods.values() if "rho" in m.parameters}
    assert len(radii) == 1


@pytest.mark.parametrize("name", [name for name in PRESETS if name.startswith("aesam/")])
def test_radii_and_alphas_that_are_ours_are_in_the_papers_grid(name):
    """Section 4.1 of Jiang et al. (2023)."""
    for method in PRESETS[name].methods.values():
        assert not ("alpha" in method.parameters and method.parameters["alpha"].value not in (0.1, 0.3, 0.6, 0.9))
        rho = method.parameters.get("rho")
        assert rho is None or rho.value in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)

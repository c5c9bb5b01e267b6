"""Presets against the papers: numbers written out here from the texts, and how they come under a user's options."""

import re

import pytest

from sharpkit import RECIPES, parse
from sharpkit.engine.config import TrainConfig, from_mapping, options, with_radius
from sharpkit.engine.papers import PRESETS
from sharpkit.engine.presets import apply, configured, find
from sharpkit.errors import UsageError
from sharpkit.recipes.grammar import parameters

METHODS = [(preset, method) for preset in PRESETS.values() for method in preset.methods]
COMING = {"ssam-f", "ssam-d"}
"""Recipes that papers train with and that may not be here yet."""


def values(name, opt=None):
    """What a preset gives, as plain values."""
    return vars(configured({"preset": name} if opt is None else {"preset": name, "opt": opt}))


# ---------------------------------------------------------------------- every preset


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_valid_configuration_of_the_papers_own_method(name):
    config = configured({"preset": name})
    assert isinstance(config, TrainConfig)
    own = next(iter(PRESETS[name].methods))
    assert config.opt.split(":")[0] == own or own in COMING - set(RECIPES)
    parse(with_radius(config.opt, config.rho))


@pytest.mark.parametrize(("preset", "method"), METHODS, ids=lambda given: getattr(given, "name", given))
def test_every_recipe_of_a_preset_parses_and_has_what_it_is_given(preset, method):
    config = configured({"preset": preset.name, "opt": method})
    if method not in RECIPES:
        assert method in COMING
        return
    parse(config.opt)
    own = parameters(RECIPES[method])
    for key, value in preset.methods[method].parameters.items():
        assert type(value.value) is own[key].kind or value.value in getattr(own[key].kind, "__args__", ())


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_every_value_has_a_source_that_names_the_paper_and_a_place(preset):
    rows = list(preset.rows())
    assert rows
    for _, value in rows:
        if value.origin == "ours":
            assert value.source.startswith("ours: ")
            continue
        place = value.source.removeprefix(f"{preset.cited}, ")
        assert place != value.source
        assert re.match(r"(section|table|figure|appendix|Algorithm|authors') ?\S", place), value.source
    assert re.fullmatch(r"[A-Z][^()]+ \(\d{4}\)", preset.cited)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_the_values_are_options_of_the_right_type(preset):
    for given in (preset.options, *(method.options for method in preset.methods.values())):
        plain = {name: value.value for name, value in given.items()}
        assert from_mapping(plain, preset.name) == plain
        assert set(plain) <= set(options()) - {"opt", "rho", "preset"}
    assert {"data", "model", "base", "lr", "wd", "epochs", "batch_size", "sched"} <= set(preset.options)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_the_name_says_data_and_model(preset):
    _, data, model = preset.name.split("/")
    assert data.split("-noise")[0] == preset.options["data"].value
    built = preset.options["model"].value.removeprefix("torchvision:").removeprefix("hf:")
    elsewhere = {"wrn28-2": "wrn34-2", "wrn28-10": "wrn34-10"} if preset.name.startswith("sampa/") else {}
    elsewhere |= {"vgg11-bn": "vgg11-bn-4096"} if preset.name.startswith("ssam/") else {}
    assert built == elsewhere.get(model, model)
    percent = data.partition("-noise")[2]
    assert ("label_noise" in preset.options) == bool(percent)
    assert not percent or preset.options["label_noise"].value == int(percent) / 100


def test_every_experiment_of_the_papers_is_there():
    pairs = {
        "ssam": "cifar10/resnet18 cifar10/wrn28-10 cifar100/resnet18 cifar100/wrn28-10 cifar10/vgg11-bn "
        "imagenet/resnet50",
        "aesam": "cifar10/resnet18 cifar10/wrn28-10 cifar10/pyramidnet110 cifar10/vit-s16 cifar100/resnet18 "
        "cifar100/wrn28-10 cifar100/pyramidnet110 cifar100/vit-s16 imagenet/resnet50 cifar10-noise20/resnet18 "
        "cifar10-noise40/resnet18 cifar10-noise60/resnet18 cifar10-noise80/resnet18 cifar10-noise20/resnet32 "
        "cifar10-noise40/resnet32 cifar10-noise60/resnet32 cifar10-noise80/resnet32",
        "sampa": "cifar10/densenet121 cifar10/resnet56 cifar10/vgg19-bn cifar10/wrn28-2 cifar10/wrn28-10 "
        "cifar100/densenet121 cifar100/resnet56 cifar100/vgg19-bn cifar100/wrn28-2 cifar100/wrn28-10 "
        "cifar10-noise20/resnet32 cifar10-noise40/resnet32 cifar10-noise60/resnet32 cifar10-noise80/resnet32 "
        "glue:cola/bert-base glue:sst2/bert-base glue:mrpc/bert-base glue:stsb/bert-base glue:qqp/bert-base "
        "glue:mnli/bert-base glue:qnli/bert-base glue:rte/bert-base glue:wnli/bert-base",
    }
    for paper, names in pairs.items():
        assert {f"{paper}/{name}" for name in names.split()} == {n for n in PRESETS if n.startswith(f"{paper}/")}


# ---------------------------------------------------------------------- the numbers, read off the papers

WRITTEN = [
    # Mi et al. 2022: section 5.1 "Hyper-parameter setting", appendix B for VGG
    (
        "ssam/cifar10/resnet18",
        "ssam-f",
        "ssam-f:rho=0.1:sparsity=0.5:nf=16:tm=1",
        {"lr": 0.05, "wd": 0.001, "momentum": 0.9},
    ),
    (
        "ssam/cifar10/resnet18",
        "ssam-d",
        "ssam-d:rho=0.1:sparsity=0.5:alpha=0.5:tm=1",
        {"epochs": 200, "batch_size": 128},
    ),
    ("ssam/cifar10/wrn28-10", "sam", "sam:rho=0.1", {"augment": "cutout:size=16:prob=0.5", "wd": 1e-3}),
    ("ssam/cifar10/wrn28-10", "sgd", "sgd", {"wd": 5e-4, "lr": 0.05, "epochs": 200}),
    ("ssam/cifar100/resnet18", "sam", "sam:rho=0.2", {"data": "cifar100", "model": "resnet18", "wd": 0.001}),
    ("ssam/cifar100/wrn28-10", "ssam-d", "ssam-d:rho=0.2:sparsity=0.5:alpha=0.5:tm=1", {"wd": 0.001, "val_frac": 0.0}),
    ("ssam/cifar10/vgg11-bn", "sam", "sam:rho=0.05", {"model": "vgg11-bn-4096", "lr": 0.05}),
    ("ssam/imagenet/resnet50", "sam", "sam:rho=0.07", {"batch_size": 256, "lr": 0.1, "wd": 1e-4, "epochs": 90}),
    ("ssam/imagenet/resnet50", "sgd", "sgd", {"wd": 1e-4, "momentum": 0.9, "model": "torchvision:resnet50"}),
    # Jiang et al. 2023: section 4.1; rho and alpha are searched for and not told
    ("aesam/cifar10/resnet18", "ae-sam", "ae-sam:rho=0.1:lam1=-1.0:lam2=1.0:delta=0.9", {"lr": 0.1, "wd": 1e-4}),
    ("aesam/cifar100/wrn28-10", "ae-looksam", "ae-looksam:rho=0.1:lam1=0.0:lam2=2.0:delta=0.9:alpha=0.6", {"lr": 0.1}),
    ("aesam/cifar100/pyramidnet110", "looksam", "looksam:rho=0.1:k=5:alpha=0.6", {"epochs": 300}),
    ("aesam/cifar10/vit-s16", "ss-sam", "ss-sam:rho=0.1:p=0.5", {"epochs": 1200, "val_frac": 0.1, "base": "sgd"}),
    ("aesam/cifar10/wrn28-10", "sam", "sam:rho=0.1", {"momentum": 0.9, "wd": 0.0001}),
    # section 4.2
    ("aesam/imagenet/resnet50", "ae-sam", "ae-sam:rho=0.05:lam1=-1.0:lam2=1.0:delta=0.9", {"batch_size": 512}),
    ("aesam/imagenet/resnet50", "looksam", "looksam:rho=0.05:k=5:alpha=0.6", {"epochs": 90, "lr": 0.1, "wd": 1e-4}),
    # section 4.3
    ("aesam/cifar10-noise80/resnet32", "looksam", "looksam:rho=0.1:k=2:alpha=0.6", {"label_noise": 0.8, "epochs": 200}),
    (
        "aesam/cifar10-noise20/resnet18",
        "ae-looksam",
        "ae-looksam:rho=0.1:lam1=-1.0:lam2=1.0:delta=0.9:alpha=0.6",
        {"lr": 0.1},
    ),
    ("aesam/cifar10-noise40/resnet18", "sgd", "sgd", {"label_noise": 0.4, "wd": 0.0001, "batch_size": 128}),
    # Xie, Pethick, Cevher 2024: tables 1, 2 and 7, and the authors' script
    ("sampa/cifar10/resnet56", "sampa", "sampa:rho=0.1:lam=0.2", {"epochs": 200, "lr": 0.1, "wd": 5e-4}),
    ("sampa/cifar100/wrn28-2", "sgd", "sgd", {"epochs": 400, "smoothing": 0.1, "val_frac": 0.1}),
    ("sampa/cifar10/vgg19-bn", "sam", "sam:rho=0.1", {"save_every": "best", "batch_size": 128}),
    ("sampa/cifar10-noise60/resnet32", "sampa", "sampa:rho=0.1:lam=0.2", {"label_noise": 0.6}),
    # the authors' code of the others
    ("asam/cifar10/wrn28-10", "asam", "asam:rho=0.5:eta=0.0", {"smoothing": 0.1, "lr": 0.1, "wd": 5e-4}),
    ("asam/cifar100/wrn28-10", "asam", "asam:rho=1.0:eta=0.0", {"batch_size": 128, "epochs": 200}),
    ("asam/cifar100/wrn28-10", "sam", "sam:rho=0.1", {"augment": "basic", "val_frac": 0.0}),
    ("esam/cifar10/resnet18", "esam", "esam:rho=0.05:beta=0.6:gamma=0.5", {"lr": 0.05, "wd": 1e-3, "batch_size": 128}),
    ("esam/cifar100/pyramidnet110", "esam", "esam:rho=0.2:beta=0.5:gamma=0.5", {"epochs": 300, "wd": 5e-4}),
    ("vasso/cifar100/wrn28-10", "vasso", "vasso:rho=0.2:theta=0.9", {"lr": 0.1, "wd": 1e-3, "val_frac": 0.0}),
    ("vasso/cifar10/resnet18", "vasso", "vasso:rho=0.05:theta=0.9", {"lr": 0.05, "wd": 1e-3}),
    ("bisam/cifar10/resnet56", "bisam-log", "bisam-log:rho=0.05:mu=1.0", {"lr": 0.1, "smoothing": 0.1}),
    ("bisam/cifar10/resnet56", "bisam-tanh", "bisam-tanh:rho=0.05:mu=10.0:alpha=0.1", {"wd": 5e-4}),
    ("gnp/cifar10/wrn28-10", "gnp", "gnp:rho=0.1:alpha=0.8:reference=raw", {"clip": 5.0, "batch_size": 256}),
    ("gnp/imagenet/resnet50", "gnp", "gnp:rho=0.05:alpha=0.8:reference=raw", {"lr": 0.2, "epochs": 100}),
]


@pytest.mark.parametrize(("name", "opt", "text", "expected"), WRITTEN, ids=lambda given: str(given)[:40])
def test_what_the_paper_says(name, opt, text, expected):
    got = values(name, opt)
    assert got["opt"] == text
    assert {key: got[key] for key in expected} == expected


# ---------------------------------------------------------------------- under a user's options

MASK = "ssam-f.sparsity=0.5:ssam-f.nf=16:ssam-f.tm=1"


@pytest.mark.parametrize(
    ("given", "opt"),
    [
        ({"opt": "sam"}, "sam:rho=0.1"),
        ({"opt": "sam:rho=0.2"}, "sam:rho=0.2"),
        ({"opt": "sam: rho =0.2"}, "sam: rho =0.2"),
        ({"opt": "sam", "rho": 0.3}, "sam"),
        ({"opt": "ssam-f:sparsity=0.9"}, "ssam-f:sparsity=0.9:rho=0.1:nf=16:tm=1"),
        ({"opt": "ssam-f", "rho": 0.3}, "ssam-f:sparsity=0.5:nf=16:tm=1"),
        ({"opt": "asam"}, "asam"),
        ({"opt": "ae-sam+ssam-f"}, f"ae-sam+ssam-f:ssam-f.rho=0.1:{MASK}"),
        ({"opt": "ae-sam+ssam-f:rho=0.3"}, f"ae-sam+ssam-f:rho=0.3:{MASK}"),
        ({"opt": "ae-sam+ssam-f:ssam-f.rho=0.3"}, f"ae-sam+ssam-f:ssam-f.rho=0.3:{MASK}"),
    ],
)
def test_a_parameter_is_added_where_the_user_gave_none(given, opt):
    applied = apply({"preset": "ssam/cifar10/resnet18", **given})
    assert applied.given["opt"] == opt
    assert applied.given.get("rho") == given.get("rho")


def test_an_option_that_refines_another_goes_with_it():
    name = "sampa/cifar10/resnet56"
    assert values(name)["smoothing_over"] == "others"
    assert configured({"preset": name, "smoothing": 0.0}).smoothing_over == "all"
    assert configured({"preset": name, "smoothing": 0.2}).smoothing_over == "others"


def test_a_user_wins_over_what_a_preset_says_of_one_recipe():
    assert values("ssam/cifar10/resnet18", "sgd")["wd"] == 5e-4
    assert configured({"preset": "ssam/cifar10/resnet18", "opt": "sgd", "wd": 0.25}).wd == 0.25


def test_of_another_base_optimizer_the_papers_learning_rate_says_nothing():
    applied = apply({"preset": "gnp/cifar10/wrn28-10", "base": "adamw"})
    config = TrainConfig(**applied.given)
    assert (config.lr, config.wd, config.nesterov, config.clip) == (None, TrainConfig().wd, False, 5.0)
    assert "lr, wd, wd_in_loss, momentum, nesterov are for another base and left out" in applied.note
    assert configured({"preset": "gnp/cifar10/wrn28-10", "base": "sgd"}).nesterov is True


def test_a_configuration_made_with_a_preset_holds_its_values_once_more():
    first = apply({"preset": "ssam/cifar10/resnet18", "opt": "sam:rho=0.4", "lr": 0.3})
    assert apply(first.given).given == first.given


def test_without_a_preset_nothing_is_added():
    applied = apply({"opt": "sam", "preset": None})
    assert (applied.given, applied.note, applied.sources) == ({"opt": "sam", "preset": None}, "", {})


def test_the_note_names_the_paper_the_values_and_what_is_the_users():
    applied = apply({"preset": "ssam/cifar100/resnet18", "opt": "sam", "epochs": 3})
    assert applied.note.startswith("preset ssam/cifar100/resnet18, Mi et al. (2022): opt=sam:rho=0.2 ")
    assert "\n" not in applied.note
    assert "lr=0.05" in applied.note
    assert "epochs=" not in applied.note
    assert applied.note.endswith("yours: epochs; sources: sharpkit ls presets")
    assert applied.sources["lr"] == "Mi et al. (2022), section 5.1"
    assert applied.sources["opt"] == "rho: Mi et al. (2022), section 5.1 and table 5"
    assert "epochs" not in applied.sources


def test_the_note_names_what_is_ours():
    note = apply({"preset": "aesam/cifar10/resnet18", "opt": "looksam"}).note
    assert "; said by neither the paper nor its code: augment, rho, alpha; sources: " in note
    assert "neither" not in apply({"preset": "ssam/cifar100/resnet18", "opt": "sam"}).note
    assert "neither" not in apply({"preset": "aesam/cifar10/resnet18", "opt": "sam:rho=0.2", "augment": "none"}).note


def test_the_note_says_where_a_preset_has_no_word():
    note = apply({"preset": "sampa/cifar10/resnet56", "opt": "asam"}).note
    assert "it says nothing on this optimizer, only on sampa, sam, sgd" in note


@pytest.mark.parametrize(
    ("name", "near"),
    [("ssam/cifar10/resnet81", "ssam/cifar10/resnet18"), ("aesam/imagenet/resnet", "aesam/imagenet/resnet50")],
)
def test_a_name_that_is_not_there_has_a_near_match(name, near):
    with pytest.raises(UsageError, match=f"unknown preset '{name}'") as caught:
        find(name)
    assert caught.value.hint == f"did you mean '{near}'? see sharpkit ls presets"


@pytest.mark.parametrize("name", ["", "x", "opt"])
def test_a_name_that_is_near_nothing(name):
    with pytest.raises(UsageError) as caught:
        configured({"preset": name})
    assert caught.value.hint == "see sharpkit ls presets"

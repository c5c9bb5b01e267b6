"""Published tables: against numbers written out here from the texts, as settings of runs, and by name."""

import re
import subprocess
import sys
from collections import Counter

import pytest

from sharpkit import parse
from sharpkit.data import DATASETS
from sharpkit.engine.config import TrainConfig, from_mapping, with_radius
from sharpkit.engine.papers import PRESETS
from sharpkit.engine.presets import configured
from sharpkit.engine.published_tables import METRICS, TABLES, find
from sharpkit.errors import UsageError
from sharpkit.models import MODELS
from tests.engine.published import ALL, one

NUMBERS = {
    "ssam/table1": 42, "ssam/table2": 42, "ssam/table3": 16, "ssam/table4": 14, "ssam/table5": 24, "ssam/table6": 6,
    "ssam/table7": 7, "ssam/table8": 24, "ssam/table9": 24, "ssam/figure3": 36,
    "aesam/table1": 112, "aesam/table2": 14, "aesam/table3": 112, "aesam/table4": 32,
    "sampa/table1": 25, "sampa/table2": 25, "sampa/table4": 14, "sampa/table6": 48, "sampa/table7": 20,
    "sampa/table8": 10,
}  # fmt: skip
"""How many cells the tables have, counted in the papers."""

tables = pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)


# ---------------------------------------------------------------------- the numbers, read off the papers

WRITTEN = [
    ("ssam/table1", "sgd", {"data": "cifar10"}, "96.07"),
    ("ssam/table1", "ssam-f:sparsity=0.5", {"data": "cifar100"}, "81.24 (+0.21)"),
    ("ssam/table1", "ssam-d:sparsity=0.95", {"data": "cifar100"}, "79.79 (-1.24)"),
    ("ssam/table2", "sam", {"data": "cifar100"}, "84.20"),
    ("ssam/table2", "ssam-f:sparsity=0.99", {"data": "cifar10"}, "97.59 (+0.11)"),
    ("ssam/table3", "ssam-d:sparsity=0.5", {"data": "imagenet"}, "77.25 (-0.00)"),
    ("ssam/table4", "ssam-d:sparsity=0.95", {"model": "vgg11-bn-4096"}, "93.48"),
    ("ssam/table5", "sam:rho=0.05", {"data": "cifar100", "model": "resnet18"}, "80.71"),
    ("ssam/table6", "sam:rho=0.2", {}, "76.37"),
    ("ssam/table7", "ssam-d:sparsity=0.5:drop=sharp", {}, "76.68 (-0.57)"),
    ("ssam/table8", "ssam-f:sparsity=0.9:nf=1024", {"metric": "mask_s"}, "29.24"),
    ("ssam/table9", "ssam-d:sparsity=0.9:tm=0", {}, "96.46"),
    ("ssam/figure3", "ssam-f:sparsity=0.9", {"data": "imagenet"}, "76.74 (-0.51)"),
    ("aesam/table1", "ae-sam", {"data": "cifar100", "model": "pyramidnet110"}, "85.58 ± 0.10"),
    ("aesam/table1", "ae-looksam", {"data": "cifar10", "model": "vit-s16", "metric": "pct_sam"}, "20.2 ± 0.2"),
    ("aesam/table2", "esam", {}, "77.25 ± 0.75"),
    ("aesam/table3", "esam", {"model": "resnet32", "label_noise": 0.8}, "10.09"),
    ("aesam/table3", "ae-sam", {"model": "resnet32", "label_noise": 0.8, "metric": "pct_sam"}, "50.3"),
    ("aesam/table4", "looksam:k=4", {"label_noise": 0.6}, "58.17"),
    ("sampa/table1", "sam", {"model": "resnet56"}, "94.26 ± 0.70"),
    ("sampa/table1", "sampa:lam=0.2", {"model": "wrn34-10", "epochs": 400}, "97.46 ± 0.07"),
    ("sampa/table2", "sampa:lam=0", {"model": "wrn34-2", "epochs": 200}, "78.45 ± 0.29"),
    ("sampa/table4", "mesa", {"metric": "s_per_epoch"}, "15.43"),
    ("sampa/table6", "sampa:lam=0.1", {"data": "glue:stsb", "metric": "spearman"}, "85.1"),
    ("sampa/table6", "sgd", {"data": "glue:wnli", "base": "adamw"}, "26.4"),
    ("sampa/table7", "sampa:lam=0", {"label_noise": 0.8}, "48.22 ± 1.71"),
    ("sampa/table8", "sampa+bisam-log:lam=0.2:rho=0.05", {}, "95.13"),
]


@pytest.mark.parametrize(("name", "opt", "where", "printed"), WRITTEN, ids=lambda given: str(given)[:40])
def test_what_the_paper_prints(name, opt, where, printed):
    entry = one(name, opt, **{"metric": "acc", **where})
    assert entry.printed == printed
    assert [entry.value, *(x for x in (entry.spread, entry.delta) if x is not None)] == [
        float(x) for x in re.findall(r"[+-]?\d+\.\d+", printed)
    ]
    assert (entry.spread is not None, entry.delta is not None) == ("±" in printed, "(" in printed)


def test_every_table_is_there_and_whole():
    assert {name: len(table.entries) for name, table in TABLES.items()} == NUMBERS
    assert {name: len(table.averages) for name, table in TABLES.items() if table.averages} == {
        "sampa/table1": 5, "sampa/table2": 5, "sampa/table6": 4,
    }  # fmt: skip
    assert {name: table.seeds for name, table in TABLES.items() if table.seeds} == {
        "aesam/table1": 5, "aesam/table2": 3, "aesam/table3": 5,
    }  # fmt: skip


def test_what_is_odd_about_a_number_is_said():
    noted = {(table.name, entry.opt, entry.printed) for table, entry in ALL if entry.note}
    assert noted == {
        ("ssam/table2", "ssam-d:sparsity=0.99", "97.27 (-0.25)"),
        ("ssam/figure3", "ssam-d:sparsity=0.99", "97.27 (-0.25)"),
        ("ssam/table9", "ssam-f:sparsity=0.9:tm=2", "93.75"),
        ("aesam/table3", "sgd", "70.82"),
    }
    averages = [average.entry for table in TABLES.values() for average in table.averages]
    assert [(entry.opt, entry.note) for entry in averages if entry.note] == [
        ("sampa:lam=0", "printed 95.86, recomputed 95.84")
    ]


# ---------------------------------------------------------------------- the settings of every number


@tables
def test_every_entry_is_a_valid_run_of_its_data_and_model(table):
    for entry in table.entries:
        given = table.given(entry)
        assert from_mapping(given, table.name) == given
        config = configured(given)
        assert isinstance(config, TrainConfig)
        parse(entry.opt)
        parse(with_radius(config.opt, config.rho))
        assert config.data in DATASETS or config.data.startswith("glue:")
        assert config.model in MODELS or config.model.startswith(("torchvision:", "hf:"))


@tables
def test_the_preset_of_an_entry_is_of_its_data_model_and_recipe(table):
    for entry in table.entries:
        given = table.given(entry)
        preset = PRESETS[given["preset"]]
        assert preset.name.partition("/")[0] == table.name.partition("/")[0]
        assert (preset.options["data"].value, preset.options["model"].value) == (given["data"], given["model"])
        noise = preset.options["label_noise"].value if "label_noise" in preset.options else 0.0
        # Of the clean run beside the noisy ones there is no preset.
        assert given.get("label_noise", 0.0) in (noise, 0.0 if table.name == "sampa/table7" else noise)
        if table.name not in ("sampa/table4", "sampa/table8"):
            assert entry.opt.split(":")[0] in preset.methods


@pytest.mark.parametrize(
    ("name", "opt", "where", "expected"),
    [
        ("ssam/table1", "sgd", {"data": "cifar100"}, {"wd": 5e-4, "lr": 0.05, "opt": "sgd", "epochs": 200}),
        (
            "ssam/table2",
            "ssam-d:sparsity=0.99",
            {"data": "cifar100"},
            {"opt": "ssam-d:sparsity=0.99:rho=0.2:alpha=0.5:tm=1"},
        ),
        ("ssam/table4", "sam", {}, {"opt": "sam:rho=0.05", "model": "vgg11-bn-4096"}),
        ("ssam/table5", "sam:rho=0.5", {"data": "cifar100", "model": "wrn28-10"}, {"opt": "sam:rho=0.5", "wd": 0.001}),
        ("aesam/table1", "ae-looksam", {"data": "cifar10", "model": "vit-s16"}, {"epochs": 1200}),
        (
            "aesam/table3",
            "looksam",
            {"model": "resnet32", "label_noise": 0.8},
            {"opt": "looksam:rho=0.1:k=2:alpha=0.6"},
        ),
        (
            "aesam/table4",
            "looksam:k=5",
            {"label_noise": 0.4},
            {"opt": "looksam:k=5:rho=0.1:alpha=0.6", "label_noise": 0.4},
        ),
        ("sampa/table1", "sgd", {"model": "vgg19-bn"}, {"epochs": 400, "smoothing": 0.1}),
        ("sampa/table1", "sampa:lam=0.2", {"model": "vgg19-bn", "epochs": 400}, {"opt": "sampa:lam=0.2:rho=0.1"}),
        ("sampa/table7", "sgd", {"label_noise": 0.0}, {"label_noise": 0.0, "epochs": 200, "model": "resnet32"}),
        ("sampa/table6", "sam", {"data": "glue:rte"}, {"base": "adamw", "lr": 2e-5, "opt": "sam:rho=0.05"}),
    ],
    ids=lambda given: str(given)[:40],
)
def test_the_run_of_an_entry_is_that_of_the_paper(name, opt, where, expected):
    config = vars(configured(find(name).given(one(name, opt, **where))))
    assert {key: config[key] for key in expected} == expected


@tables
def test_no_two_entries_are_about_the_same(table):
    about = Counter(repr((sorted(table.given(entry).items()), entry.metric)) for entry in table.entries)
    assert set(about.values()) == {1}
    assert {entry.metric for entry in table.entries} <= set(METRICS)
    assert {average.entry.metric for average in table.averages} <= set(METRICS)


@tables
def test_a_baseline_is_an_entry_and_the_others_are_compared_with_it(table):
    if table.name == "sampa/table8":
        assert table.baseline == ""
        pairs = [(entry.opt.split(":")[0], table.reference(entry)) for entry in table.entries]
        assert [opt for opt, other in pairs if other is None] == ["msam", "asam", "sam-on", "vasso", "bisam-log"]
        assert all(opt == f"sampa+{other.opt}" for opt, other in pairs if other is not None)
        return
    assert table.baseline in {entry.opt for entry in table.entries}
    for entry in table.entries:
        reference = table.reference(entry)
        if entry.opt == table.baseline:
            assert reference is None
            continue
        assert (reference.opt, reference.metric) == (table.baseline, entry.metric)
        assert all(reference.options.get(key) == value for key, value in entry.options.items() if key != "epochs")


@tables
def test_a_table_says_where_it_is_from_and_what_is_not_as_in_the_paper(table):
    assert re.fullmatch(r"[A-Z].* \(\d{4}\), (appendix B(\.2)?, )?(table|figure) \d", table.source)
    assert table.source.endswith(re.sub(r"(\d)", r" \1", table.name.partition("/")[2]))
    for text in (table.caption, *table.remarks):
        assert text
        assert "\n" not in text


# ---------------------------------------------------------------------- names


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_found_by_its_name(name):
    assert find(name).name == name


@pytest.mark.parametrize(
    ("name", "near"),
    [("ssam/tabel1", "ssam/table1"), ("ae-sam/table3", "aesam/table3"), ("sampa/table5", "sampa/table")],
)
def test_a_name_that_is_not_there_has_a_near_match_and_the_list(name, near):
    with pytest.raises(UsageError, match=f"unknown table '{name}'") as caught:
        find(name)
    assert caught.value.hint.startswith(f"did you mean '{near}")
    assert caught.value.hint.endswith(f"allowed: {', '.join(NUMBERS)}")


@pytest.mark.parametrize("name", ["", "x", "/", "table1"])
def test_a_name_that_is_near_nothing_has_the_list(name):
    assert name not in TABLES
    with pytest.raises(UsageError) as caught:
        find(name)
    assert "ssam/table1, ssam/table2" in caught.value.hint


def test_a_name_is_looked_up_without_torch():
    code = """
import sys
from sharpkit.engine.published_tables import TABLES, find
assert find("sampa/table8").entries and len(TABLES) == 20
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)

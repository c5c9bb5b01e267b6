"""Who says each setting of a reproduced number, against lists typed from the papers."""

import pytest

from sharpkit.engine.presets import configured
from sharpkit.engine.provenance import OPTIONS, settings_of
from sharpkit.engine.published_tables import TABLES, find
from sharpkit.recipes.grammar import parse
from tests.engine.published import one

CODE = "authors' code"


def origins(name, opt, **where):
    return {setting.name: setting for setting in settings_of(find(name), one(name, opt, **where))}


@pytest.mark.parametrize("name", TABLES)
def test_every_setting_of_every_number_has_the_value_that_is_run_and_an_origin(name):
    table = TABLES[name]
    for entry in {(e.opt, repr(sorted(e.options.items()))): e for e in table.entries}.values():
        config, found = configured(table.given(entry)), settings_of(table, entry)
        assert len({setting.name for setting in found}) == len(found)
        recipe = ":".join([parse(config.opt).name, *(f"{s.name}={s.value}" for s in found if not s.option)])
        assert parse(recipe) == parse(config.opt)
        for setting in found:
            assert setting.source
            assert not setting.option or setting.name in OPTIONS
            assert not setting.option or setting.value == getattr(config, setting.name)
            assert (setting.origin == "ours") == setting.source.startswith("ours: ")
        rest = {key for key in OPTIONS if getattr(config, key) is not None} - {setting.name for setting in found}
        assert rest <= {"momentum", "nesterov", "noise_kind", "smoothing_over", "wd_in_loss"}


@pytest.mark.parametrize(
    ("name", "opt", "where", "expected"),
    [
        ("sampa/table1", "sam", {"model": "wrn34-10"}, {"rho": "ours", "model": CODE, "epochs": "paper", "lr": CODE}),
        ("sampa/table1", "sampa:lam=0.2", {"model": "resnet56", "epochs": 200}, {"rho": CODE, "lam": "paper",
         "y_step": "ours", "model": "paper", "smoothing_over": CODE, "save_every": CODE, "bn_stats": "ours"}),
        ("sampa/table1", "sampa:lam=0.2", {"model": "resnet56", "epochs": 400}, {"epochs": "paper"}),
        ("sampa/table7", "sgd", {"label_noise": 0.0}, {"label_noise": "paper", "epochs": CODE}),
        ("sampa/table4", "looksam", {}, {"rho": "ours", "k": "ours", "data": "ours", "model": "ours", "wd": CODE}),
        ("sampa/table6", "sampa:lam=0.1", {"data": "glue:rte"}, {"lam": "paper", "rho": "ours", "lr": "ours",
         "base": "paper", "model": "paper", "val_frac": "ours"}),
        ("sampa/table8", "sampa+vasso:lam=0.2:rho=0.2", {}, {"lam": "paper", "rho": "ours", "theta": "ours"}),
        ("sampa/table8", "sampa+asam:lam=0.2", {}, {"rho": "ours", "model": "ours"}),
        ("aesam/table1", "looksam", {"data": "cifar10", "model": "resnet18"}, {"rho": "ours", "alpha": "ours",
         "k": "paper", "scope": "ours", "val_frac": "paper", "augment": "ours"}),
        ("aesam/table3", "ae-sam", {"model": "resnet18", "label_noise": 0.2}, {"rho": "ours", "lam1": "paper",
         "val_frac": "ours", "label_noise": "paper", "noise_kind": "ours"}),
        ("aesam/table4", "looksam:k=3", {"label_noise": 0.2}, {"k": "paper", "alpha": "ours"}),
        ("ssam/table1", "ssam-f:sparsity=0.9", {"data": "cifar10"}, {"rho": "paper", "sparsity": "paper", "nf": CODE,
         "tm": CODE, "fisher_mode": "ours", "augment": CODE, "epochs": "paper"}),
        ("ssam/table7", "ssam-d:sparsity=0.5:drop=sharp", {}, {"sparsity": "ours", "drop": "paper", "alpha": CODE}),
        ("ssam/table9", "ssam-f:sparsity=0.5:tm=5", {}, {"tm": "paper", "nf": CODE}),
        ("ssam/table4", "sam", {}, {"model": CODE, "rho": "paper"}),
    ],
    ids=lambda given: str(given)[:40],
)  # fmt: skip
def test_an_origin_is_that_of_the_source(name, opt, where, expected):
    found = origins(name, opt, **where)
    assert {key: found[key].origin for key in expected} == expected


def test_a_source_names_the_place():
    assert origins("sampa/table1", "sam", model="wrn34-10")["lr"].source.endswith("(2024), authors' train.py")
    assert origins("ssam/table9", "ssam-f:sparsity=0.5:tm=5")["tm"].source == "Mi et al. (2022), appendix B, table 9"
    assert origins("ssam/table7", "ssam-d:sparsity=0.5:drop=sharp")["sparsity"].source.startswith("ours: not said")
    assert origins("sampa/table1", "sam", model="resnet56")["bn_stats"].source == "ours: the option's default"

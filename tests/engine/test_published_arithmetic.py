"""Published tables against their own arithmetic: differences, averages, formulas, and what two of them print."""

import re

import pytest

from sharpkit import parse
from sharpkit.engine.presets import configured
from sharpkit.engine.published_tables import TABLES, find
from tests.engine.published import ALL, one


def test_differences_are_those_of_the_numbers_but_for_one_misprint():
    wrong = []
    differences = [(table, entry) for table, entry in ALL if entry.delta is not None and table.name != "ssam/figure3"]
    assert len(differences) == 24 + 24 + 6 + 5
    for table, entry in differences:
        assert table.reference(entry).opt == "sam"
        difference = round(entry.value - table.reference(entry).value, 2)
        if difference != entry.delta:
            wrong.append((table.name, entry.opt, entry.delta, difference))
            assert entry.note == f"difference printed {entry.delta}, recomputed {difference}"
    assert wrong == [("ssam/table2", "ssam-d:sparsity=0.99", -0.25, -0.21)]


def test_averages_are_those_of_the_numbers_but_for_one_misprint():
    wrong = []
    for table in TABLES.values():
        for average in table.averages:
            decimals = len(average.entry.printed.split()[0].partition(".")[2])
            mean, spread = average.recomputed()
            if abs(mean - average.entry.value) > 0.5 * 10**-decimals + 1e-9:
                wrong.append((table.name, average.entry.opt, average.entry.value, round(mean, 4)))
            if average.entry.spread is None:
                assert spread is None
            else:
                assert spread == pytest.approx(average.entry.spread, abs=0.005)
    assert wrong == [("sampa/table1", "sampa:lam=0", 95.86, 95.84)]


def test_the_average_of_glue_is_over_tasks_and_not_over_numbers():
    adamw = find("sampa/table6").averages[0]
    assert (adamw.entry.opt, adamw.entry.value, len(adamw.over)) == ("sgd", 74.6, 12)
    tasks = [56.6, 91.6, (85.6 + 89.9) / 2, (85.4 + 85.3) / 2, (90.2 + 86.8) / 2, 82.6, 89.8, 62.4, 26.4]
    assert adamw.recomputed() == (pytest.approx(sum(tasks) / 9), None)
    assert sum(entry.value for entry in adamw.over) / 12 == pytest.approx(77.7, abs=0.05)


@pytest.mark.parametrize("name", ["ssam/table1", "ssam/table2", "ssam/table3"])
def test_the_flops_of_a_sparse_perturbation_are_the_papers_formula(name):
    for entry in find(name).entries:
        if entry.metric == "flops":
            sparsity = float(entry.opt.partition("sparsity=")[2] or 0)
            assert entry.value == (1 if entry.opt == "sgd" else round(2 - 0.706 * sparsity, 2))


def test_the_share_of_sam_steps_is_what_a_gate_without_adaption_makes_it():
    for table, entry in ALL:
        if entry.metric == "pct_sam" and not entry.opt.startswith("ae-"):
            config = configured(table.given(entry))
            k = re.search(r"k=(\d)", config.opt)
            share = {"sgd": 0, "sam": 100, "esam": 100, "ss-sam": 50}.get(entry.opt)
            assert entry.value == (round(100 / int(k[1]), 1) if k else share)


TWICE = [
    ("table5", "sam:rho=0.1", "table1", "sam", {"data": "cifar10", "model": "resnet18"}),
    ("table5", "sam:rho=0.2", "table1", "sam", {"data": "cifar100", "model": "resnet18"}),
    ("table5", "sam:rho=0.1", "table2", "sam", {"data": "cifar10", "model": "wrn28-10"}),
    ("table5", "sam:rho=0.2", "table2", "sam", {"data": "cifar100", "model": "wrn28-10"}),
    ("table6", "sam:rho=0.07", "table3", "sam", {}),
    ("table7", "ssam-f:sparsity=0.5:mask=fisher", "table3", "ssam-f:sparsity=0.5", {}),
    ("table7", "ssam-d:sparsity=0.5:drop=flat", "table3", "ssam-d:sparsity=0.5", {}),
]


@pytest.mark.parametrize(("first", "opt", "second", "other", "where"), TWICE, ids=lambda given: str(given)[:40])
def test_what_two_tables_print_is_the_same_number_and_the_same_run(first, opt, second, other, where):
    places = (f"ssam/{first}", opt), (f"ssam/{second}", other)
    entries = [one(*place, **where) for place in places]
    assert entries[0].value == entries[1].value
    runs = [vars(configured(find(name).given(entry))) for (name, _), entry in zip(places, entries, strict=True)]
    whole = [{**run, "opt": parse(run["opt"]).text} for run in runs]
    assert whole[0] == whole[1]


def test_the_data_and_the_network_of_table_4_of_sampa_are_told_by_its_numbers():
    for opt in ("sam", "sampa:lam=0.2"):
        first = one("sampa/table1", opt, model="resnet56", epochs=200)
        second = one("sampa/table4", opt)
        assert first.value == second.value
        assert configured(find("sampa/table1").given(first)) == configured(find("sampa/table4").given(second))


def test_looksam_with_k_2_is_in_two_tables():
    for noise in (0.2, 0.4, 0.6, 0.8):
        for metric in ("acc", "pct_sam"):
            place = {"metric": metric, "label_noise": noise, "model": "resnet18"}
            assert one("aesam/table4", "looksam:k=2", **place).value == one("aesam/table3", "looksam", **place).value

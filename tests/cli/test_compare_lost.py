"""Runs that diverged, failed or are missing: counted in every format, and never a reason for another choice."""

import csv
import io
import json
import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import tomli_w
from scipy import stats

from sharpkit import parse
from sharpkit.engine.config import TrainConfig, to_mapping
from sharpkit.engine.rundir import RunDir
from tests.engine.finished import finished

SGD, SAM = [0.90, 0.91, 0.89, 0.905], [0.93, 0.935, 0.93, 0.94]


def unfinished(folder, opt, seed, *, diverged=True, **options):
    """A run that has no result, as training leaves it."""
    config = {**to_mapping(TrainConfig(seed=seed, model="mlp", lr=0.1, **options)), "opt": parse(opt).text}
    folder.mkdir(parents=True)
    RunDir(folder).config.write_text(tomli_w.dumps(config))
    lines = [{"kind": "epoch", "epoch": 1, "step": 9, "train_loss": 1.0}]
    lines += [{"kind": "diverged", "step": 12, "message": "the loss is nan"}] * diverged
    RunDir(folder).metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def runs(tmp_path):
    """Four seeds of sgd, three and one that diverged of sam, none but diverged ones of gnp."""
    for seed in range(4):
        finished(tmp_path / f"runs/sgd{seed}", "sgd", seed, SGD[seed])
        if seed != 2:
            finished(tmp_path / f"runs/sam{seed}", "sam", seed, SAM[seed])
        unfinished(tmp_path / f"runs/gnp{seed}", "gnp", seed)
    unfinished(tmp_path / "runs/sam2", "sam", 2)
    return tmp_path / "runs"


def tsv(done):
    assert done.code in (0, 6), done.stderr
    return {row["opt"]: row for row in csv.DictReader(io.StringIO(done.stdout), delimiter="\t")}


def test_pairs_are_those_that_are_there_and_all_is_counted(sharpkit, runs):
    rows = tsv(sharpkit("compare", "--from", runs, "--metric", "acc"))
    counts = {
        opt: tuple(row[k] for k in ("n", "planned", "diverged", "failed", "missing")) for opt, row in rows.items()
    }
    assert counts == {
        "sgd": ("4", "4", "0", "0", "0"),
        "gnp": ("0", "4", "4", "0", "0"),
        "sam": ("3", "4", "1", "0", "0"),
    }
    kept = [0, 1, 3]
    expected = stats.ttest_rel(100 * np.array(SAM)[kept], 100 * np.array(SGD)[kept])
    assert float(rows["sam"]["p"]) == float(rows["sam"]["p_adj"]) == pytest.approx(expected.pvalue)
    assert rows["sam"]["pairs"] == "3"
    assert (rows["gnp"]["acc_mean"], rows["gnp"]["diff"], rows["gnp"]["pairs"]) == ("", "", "")
    assert rows["gnp"]["says"] == "0 of 4 runs have a result (4 diverged)"
    assert not any("nan" in value for row in rows.values() for value in row.values())


def test_every_format_counts(sharpkit, runs, monkeypatch):
    def text(form):
        return sharpkit("compare", "--from", runs, "--format", form, "--metric", "acc").stdout

    assert "| gnp | 0 of 4 |  |  |  |  |" in text("md").splitlines()
    assert next(line for line in text("md").splitlines() if line.startswith("| sam")).startswith(
        "| sam | 3 of 4 | 93.50"
    )
    assert r"gnp & -- (0 of 4) \\" in text("latex").splitlines()
    assert r"$\mathbf{93.50} \pm 0.50$ (3 of 4) \\" in text("latex")
    document = json.loads(text("json"))
    gnp = next(row for row in document["rows"] if row["opt"] == "gnp")
    assert (gnp["n"], gnp["planned"], gnp["diverged"], gnp["difference"], gnp["detectable"]) == (0, 4, 4, None, None)
    assert [json.loads(line)["diverged"] for line in text("jsonl").splitlines()] == [0, 4, 1]
    assert [row["diverged"] for row in csv.DictReader(io.StringIO(text("csv")))] == ["0", "4", "1"]


def test_a_person_sees_it_in_80_columns(terminal, runs, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = terminal("compare", "--from", runs, "--no-color")
    assert max(len(line) for line in shown.stdout.splitlines()) <= 80
    assert re.search(r"│ gnp +│ 0 of 4 │", shown.stdout)
    assert re.search(r"│ sam +│ 3 of 4 │ 93\.50 ± 0\.50 ", shown.stdout), "no number is broken"
    assert "gnp: 0 of 4 runs have a result (4 diverged)" in shown.stderr


def test_figures_count(sharpkit, runs):
    mpl.rcParams["svg.fonttype"] = "none"
    for more in ([], ["--plot-vs", "rho"]):
        for seed in range(2 * bool(more)):
            unfinished(runs / f"sam1{seed}", "sam:rho=0.5", seed)
        done = sharpkit("compare", "--from", runs, "--plot", "a.svg", *more, "--curves", "c.svg", "--metric", "acc")
        assert done.code == 0, done.stderr
        drawn = Path("a.svg").read_text()
        assert "3 of 4" in drawn
        assert ("0 of 4 (4 diverged)" in drawn) is not bool(more)
        assert "gnp: 0 of 4 runs" in Path("c.svg").read_text()


def test_a_baseline_without_a_result_stays_it(sharpkit, runs):
    rows = tsv(sharpkit("compare", "--from", runs, "--baseline", "gnp"))
    assert rows["gnp"]["says"] == "the baseline; 0 of 4 runs have a result (4 diverged)"
    for opt in ("sgd", "sam"):
        assert (rows[opt]["diff"], rows[opt]["p"]) == ("", "")
        assert rows[opt]["says"].startswith("of the baseline gnp 0 of 4 runs have a result (4 diverged)")


def test_a_run_that_is_not_finished_is_missing_if_it_is_one_of_them(sharpkit, runs):
    unfinished(runs / "sgd5", "sgd", 5, diverged=False)
    unfinished(runs / "other", "sgd", 6, diverged=False, epochs=7)
    done = sharpkit("compare", "--from", runs, "--metric", "acc")
    rows = tsv(done)
    assert (rows["sgd"]["n"], rows["sgd"]["planned"], rows["sgd"]["missing"]) == ("4", "5", "1")
    assert rows["sam"]["missing"] == "1", "a seed that another recipe has"
    assert "epochs" not in rows["sgd"], "another experiment that was broken off is none of the table"
    assert f"passed over: {runs}/other is not finished" in done.stderr


@pytest.mark.parametrize("value", ["NaN", "Infinity"])
def test_a_number_that_is_not_finite_counts_as_diverged(sharpkit, tmp_path, value):
    for seed in range(3):
        finished(tmp_path / f"sgd{seed}", "sgd", seed, SGD[seed])
        finished(tmp_path / f"sam{seed}", "sam", seed, float(value) if seed == 1 else SAM[seed])
    row = tsv(sharpkit("compare", "--from", tmp_path, "--metric", "acc"))["sam"]
    assert (row["n"], row["planned"], row["diverged"], row["pairs"]) == ("2", "3", "1", "2")
    assert float(row["acc_mean"]) == pytest.approx(100 * (SAM[0] + SAM[2]) / 2)
    assert row["says"].startswith("+3.50 points; 2 seeds: too few")
    assert "nan" not in row["says"]


@pytest.mark.parametrize("opt", ["sam", "gnp"])
def test_a_requirement_is_not_met_by_the_runs_that_survived(sharpkit, runs, opt):
    done = sharpkit("compare", "--from", runs, "--require", f"{opt}>=sgd")
    assert done.code == 6
    assert re.search(rf"not met: {opt}>=sgd \({opt}: \d of 4 runs have a result \(\d diverged\)\)", done.stderr)


def test_a_requirement_says_of_how_many_pairs(sharpkit, tmp_path):
    for seed in range(4):
        finished(tmp_path / f"sgd{seed}", "sgd", seed, SGD[seed])
        if seed:
            finished(tmp_path / f"sam{seed}", "sam", seed, SAM[seed])
    done = sharpkit("compare", "--from", tmp_path, "--require", "sam>=sgd")
    assert done.code == 0
    assert "met: sam>=sgd (acc: +3.333, 3 pairs)" in done.stderr


def test_the_environment_is_no_request(sharpkit, runs, monkeypatch):
    words = ("compare", "--from", runs, "--metric", "acc")
    plain = sharpkit(*words).stdout
    for name, value in (("DATA_DIR", "/nowhere"), ("LR", "3"), ("BUDGET", "grads"), ("SEEDS", "9"), ("JOBS", "2")):
        monkeypatch.setenv(f"SHARPKIT_{name}", value)
    assert sharpkit(*words).stdout == plain
    monkeypatch.setenv("SHARPKIT_METRIC", "time")
    assert "time_mean" in sharpkit("compare", "--from", runs).stdout, "what is meant for this command holds"
    assert "options of training" in sharpkit(*words, "--data-dir", "/nowhere").told

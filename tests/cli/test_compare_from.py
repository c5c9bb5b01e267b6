"""The table of runs that are there: its numbers against scipy's, its formats, requirements, choice and figures."""

import csv
import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from tests.engine.finished import finished

SGD, SAM, GNP = [0.90, 0.91, 0.89, 0.905], [0.93, 0.935, 0.93, 0.94], [0.90, 0.92, 0.88, 0.905]


@pytest.fixture
def three(tmp_path):
    """Four seeds of three recipes."""
    for opt, accuracies in (("sgd", SGD), ("sam", SAM), ("gnp", GNP)):
        for seed, acc in enumerate(accuracies):
            finished(tmp_path / f"runs/{opt}{seed}", opt, seed, acc, wall_s=2 if opt == "sgd" else 4)
    return tmp_path / "runs"


def tsv(done):
    assert done.code in (0, 6), done.stderr
    return {row["opt"]: row for row in csv.DictReader(io.StringIO(done.stdout), delimiter="\t")}


def test_the_numbers_are_scipys(sharpkit, three):
    rows = tsv(sharpkit("compare", "--from", three))
    assert list(rows) == ["sgd", "gnp", "sam"]
    tests = {opt: stats.ttest_rel(100 * np.array(of), 100 * np.array(SGD)) for opt, of in (("sam", SAM), ("gnp", GNP))}
    for opt, of in (("sam", SAM), ("gnp", GNP)):
        row, interval = rows[opt], tests[opt].confidence_interval(0.95)
        assert float(row["acc_mean"]) == pytest.approx(100 * np.mean(of))
        assert float(row["acc_std"]) == pytest.approx(100 * np.std(of, ddof=1))
        assert float(row["diff"]) == pytest.approx(100 * (np.mean(of) - np.mean(SGD)))
        assert float(row["p"]) == pytest.approx(tests[opt].pvalue)
        assert (float(row["ci_low"]), float(row["ci_high"])) == pytest.approx(tuple(interval))
        assert row["n"] == "4"
    smaller, larger = sorted(test.pvalue for test in tests.values())
    assert float(rows["sam"]["p_adj"]) == pytest.approx(2 * smaller)
    assert float(rows["gnp"]["p_adj"]) == pytest.approx(larger)
    assert rows["sgd"]["says"] == "the baseline"
    told = "no significant difference (+0.00 points [-1.30, +1.30], p_adj = 1.00, 4 pairs"
    assert rows["gnp"]["says"] == f"{told}; a true 2.22 points would show with probability 0.8)"
    assert float(rows["gnp"]["detectable"]) == pytest.approx(2.22, abs=0.005)
    assert rows["sam"]["pairs"] == "4"
    assert float(rows["sam"]["s_per_epoch_mean"]) == 2.0


def test_other_tests_corrections_and_levels(sharpkit, three):
    row = tsv(sharpkit("compare", "--from", three, "--test", "welch", "--correct", "none", "--ci", "0.9"))["sam"]
    found = stats.ttest_ind(100 * np.array(SAM), 100 * np.array(SGD), equal_var=False)
    assert float(row["p"]) == float(row["p_adj"]) == pytest.approx(found.pvalue)
    assert float(row["ci_low"]) == pytest.approx(found.confidence_interval(0.9).low)
    assert tsv(sharpkit("compare", "--from", three, "--test", "none"))["sam"]["p"] == ""


def test_the_document(sharpkit, three):
    done = sharpkit("compare", "--from", three, "--json")
    document = done.json
    assert (document["schema"], document["ok"], document["device"]) == ("sharpkit.compare/1", True, "cpu")
    assert document["warnings"] == []
    base, _, sam = document["rows"]
    assert (base["difference"], base["p_adjusted"], base["baseline"]) == (None, None, True)
    assert sam["metrics"]["acc"]["values"] == {str(i): 100 * a for i, a in enumerate(SAM)}
    assert (document["cost"]["runs"], document["cost"]["grads"], document["cost"]["peak_mb"]) == (12, 12 * 18, 100)
    assert sharpkit("compare", "--from", three, "--format", "json").json["rows"] == document["rows"]


def test_formats(sharpkit, three):
    def text(form):
        return sharpkit("compare", "--from", three, "--format", form, "--metric", "acc,time,pct_sam").stdout

    rows = list(csv.DictReader(io.StringIO(text("csv"))))
    assert [row["opt"] for row in rows] == ["sgd", "gnp", "sam"]
    assert [json.loads(line)["opt"] for line in text("jsonl").splitlines()] == ["sgd", "gnp", "sam"]
    head, rule, first, *_ = text("md").splitlines()
    assert head.startswith("| optimizer | n | test accuracy, % | difference [95 % CI] | pairs | p_adj | seconds |")
    assert set(rule) == set("| -")
    assert first == "| sgd | 4 | 90.12 ± 0.85 | baseline |  |  | 2.00 | 0.0 |"
    lines = text("latex").splitlines()
    assert lines[1] == r"\begin{tabular}{lccc}"
    assert lines[3] == r"optimizer & test accuracy, \% & seconds & SAM steps, \% \\"
    assert lines[5] == r"sgd & $\underline{90.12} \pm 0.85$ & $\mathbf{2.00} \pm 0.00$ & $0.0 \pm 0.0$ \\"
    assert lines[7].startswith(r"sam & $\mathbf{93.38} \pm 0.48$ & $\underline{4.00}")


def test_latex_has_a_column_for_every_setting_and_marks_ties_alike(sharpkit, tmp_path):
    for noise, values in ((0.0, (0.9, 0.9, 0.8)), (0.4, (0.5, 0.7, 0.6))):
        for opt, acc in zip(("sgd", "sam", "gnp"), values, strict=True):
            finished(tmp_path / f"{opt}{noise}", opt, 0, acc, label_noise=noise)
    lines = sharpkit("compare", "--from", tmp_path, "--format", "latex").stdout.splitlines()
    assert lines[3] == r"optimizer & label\_noise 0 & label\_noise 0.4 \\"
    assert lines[5:8] == [
        r"sgd & $\mathbf{90.00}$ & $50.00$ \\",
        r"gnp & $\underline{80.00}$ & $\underline{60.00}$ \\",
        r"sam & $\mathbf{90.00}$ & $\mathbf{70.00}$ \\",
    ]


def test_a_terminal_gets_a_table_and_a_sentence_for_every_row(terminal, three, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    shown = terminal("compare", "--from", three, "--no-color")
    assert "93.38 ± 0.48" in shown.stdout
    assert "paired t-test to the baseline, p corrected by Holm" in shown.stdout
    assert re.search(r"sam: \+3\.25 points \[\+2\.22, \+4\.28\], p_adj = 0\.0042", shown.stderr)


@pytest.mark.parametrize(
    ("requirement", "code"),
    [("sam>=sgd", 0), ("sam>sgd", 0), ("sgd>=sam", 6), ("gnp>sgd", 6), ("sam:rho=0.05>sgd,gnp>=sgd", 0)],
)
def test_requirements(sharpkit, three, requirement, code):
    done = sharpkit("compare", "--from", three, "--require", requirement)
    assert done.code == code
    assert ("not met" in done.stderr) == (code == 6)
    assert len(done.stdout.splitlines()) == 4, "the table is there all the same"


def test_a_requirement_that_no_setting_has_both_of_is_not_met(sharpkit, tmp_path):
    for opt, noise in (("sgd", 0.0), ("sgd", 0.2), ("sam", 0.4)):
        finished(tmp_path / f"{opt}{noise}", opt, label_noise=noise)
    done = sharpkit("compare", "--from", tmp_path, "--require", "sam>=sgd")
    assert done.code == 6
    assert "no runs of both with the same settings" in done.stderr


def test_a_choice_is_made_by_validation_and_never_by_test_accuracy(sharpkit, tmp_path):
    for rho, acc, val in ((0.05, 0.9, 0.7), (0.1, 0.5, 0.8), (0.2, 0.95, 0.6)):
        for seed in range(3):
            finished(tmp_path / f"{rho}{seed}", f"sam:rho={rho}", seed, acc + seed / 100, val_acc=val)
    for seed in range(3):
        finished(tmp_path / f"sgd{seed}", "sgd", seed, 0.4)
    done = sharpkit("compare", "--from", tmp_path, "--select", "val")
    rows = tsv(done)
    assert list(rows) == ["sgd", "sam"]
    assert rows["sam"]["chosen"] == "sam:rho=0.1"
    assert float(rows["sam"]["acc_mean"]) == pytest.approx(51)
    assert "sam: sam:rho=0.1 is the best of 3 by validation accuracy (80.00 %)" in done.stderr
    kept = tsv(sharpkit("compare", "--from", tmp_path, "--select", "val", "--baseline", "sam:rho=0.05"))
    assert kept["sam"]["says"] == "the baseline"


def test_runs_that_cannot_be_trusted_are_told_and_left_out(sharpkit, three):
    summary = json.loads((three / "sam0/summary.json").read_text())
    summary["metrics"]["test_acc"] = 1.0
    (three / "sam0/summary.json").write_text(json.dumps(summary))
    done = sharpkit("compare", "--from", three)
    assert tsv(done)["sam"]["n"] == "3"
    assert f"note: passed over: {three}/sam0 has another summary.json than it ended with" in done.stderr


def test_paths_from_stdin_and_what_is_written(sharpkit, three, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{p}\n" for p in sorted(three.glob("s*")))))
    done = sharpkit("compare", "--from", "-", "-o", "out dir")
    assert list(tsv(done)) == ["sgd", "sam"]
    assert Path("out dir/compare.csv").read_text() == done.stdout.replace("\t", ",").replace(
        tsv(done)["sam"]["says"], f'"{tsv(done)["sam"]["says"]}"'
    )
    assert json.loads(Path("out dir/compare.json").read_text())["rows"]
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert sharpkit("compare", "--from", "-").code == 2


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--metric", "acuracy"], 2, "did you mean 'train_acc'|did you mean 'acc'"),
        (["--baseline", "asam"], 2, "baseline names 'asam', allowed are sgd, gnp, sam"),
        (["--require", "asam>=sgd"], 2, "require names 'asam'"),
        (["--require", "asam"], 2, "allowed are A>=B and A>B"),
        (["--plot", "a.gif"], 2, r"allowed endings are \.png"),
        (["--plot-vs", "rho"], 2, "without --plot"),
        (["--sharpness", "lambda"], 2, "no run has the metric 'lambda'"),
        (["--budget", "grads"], 2, "--from is given with --budget"),
        (["--seeds", "3"], 2, "--from is given with --seeds"),
        (["--epochs", "3"], 2, "options of training"),
        (["--ci", "1"], 2, "ci is 1"),
    ],
)
def test_bad_input(fails, three, words, code, told):
    assert re.search(told, fails(code, "compare", "--from", three, *words))


def test_figures(sharpkit, tmp_path):
    for rho in (0.05, 0.1):
        for lam in (0.2, 0.4):
            for seed in range(3):
                finished(tmp_path / f"runs/{rho}{lam}{seed}", f"sampa:rho={rho}:lam={lam}", seed, 0.9 + rho + seed / 99)
    for name, more in (("a.png", []), ("b.svg", ["--plot-vs", "rho"]), ("c.png", ["--plot-vs", "rho,lam"])):
        done = sharpkit("compare", "--from", "runs", "--plot", name, *more, "--curves", "curves.png")
        assert done.code == 0, done.stderr
        assert f"written: {name}" in done.stderr
    assert "<svg" in Path("b.svg").read_text()
    for name in ("a.png", "c.png", "curves.png"):
        with Image.open(name) as image:
            assert min(image.size) > 300
    done = sharpkit("compare", "--from", "runs", "--plot", "d.png", "--plot-vs", "k")
    assert (done.code, Path("d.png").exists()) == (2, False)
    assert "allowed are lam, rho" in done.told


def test_few_seeds_get_no_p_value_and_the_reason(sharpkit, tmp_path):
    for opt in ("sgd", "sam"):
        for seed in range(2):
            finished(tmp_path / f"{opt}{seed}", opt, seed, 0.9 + seed / 100)
    row = tsv(sharpkit("compare", "--from", tmp_path))["sam"]
    assert (row["p"], row["p_adj"], row["ci_low"]) == ("", "", "")
    assert row["says"] == "+0.00 points; 2 seeds: too few for a test, 3 are needed"
    assert not math.isnan(float(row["diff"]))

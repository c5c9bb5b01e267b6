"""`sharpkit compare` from options to a table, and what it refuses before any run."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from sharpkit.commands.compare_metrics import TIMES
from tests.cli.conftest import write

TINY = ("--epochs", "2", "--limit", "120", "--model", "mlp", "--jobs", "1")


def table(text):
    """The rows without the columns that are other numbers whenever a run is repeated."""
    rows = csv.DictReader(io.StringIO(text), delimiter="\t")
    return [{key: value for key, value in row.items() if not key.startswith(TIMES)} for row in rows]


def test_a_comparison_is_made_once_and_what_is_tampered_with_again(sharpkit):
    call = ("compare", "sgd", "sam:rho=0.1", "--seeds", "2", *TINY, "--out", "a b")
    first = sharpkit(*call)
    assert first.code == 0, first.stderr
    assert first.stderr.splitlines()[3].startswith("4/4 ")
    rows = table(first.stdout)
    assert [(row["opt"], row["n"], row["grads_seq_mean"]) for row in rows] == [
        ("sgd", "2", "2.0"),
        ("sam:rho=0.1", "2", "4.0"),
    ]
    for row in rows:
        (pattern,) = {row["opt"].replace(":", "_")}
        found = [json.loads(path.read_text()) for path in Path("a b").glob(f"{pattern}-s*/summary.json")]
        accuracies = [100 * run["metrics"]["test_acc"] for run in found]
        assert float(row["acc_mean"]) == pytest.approx(np.mean(accuracies))
        assert float(row["acc_std"]) == pytest.approx(np.std(accuracies, ddof=1))
    (summary,) = Path("a b").glob("sgd-s1-*/summary.json")
    summary.write_text(summary.read_text().replace('"test_acc": 0', '"test_acc": 1'))
    again = sharpkit(*call)
    assert again.code == 0, again.stderr
    assert "3 of 4 runs are finished already" in again.stderr
    assert f"{summary.parent} has another summary.json than it ended with: trained anew" in again.stderr
    assert table(again.stdout) == rows
    assert json.loads(Path("a b/compare.json").read_text())["warnings"] == [
        f"{summary.parent} has another summary.json than it ended with: trained anew"
    ]


def test_a_dry_run_lists_the_runs_and_starts_none(sharpkit, tmp_path):
    done = sharpkit("compare", "sgd", "sam:rho=0.1,0.2", "--seeds", "1,4", "--label-noise", "0,0.4", *TINY, "-n")
    assert (done.code, list(tmp_path.iterdir())) == (0, [])
    rows = list(csv.DictReader(io.StringIO(done.stdout), delimiter="\t"))
    assert len(rows) == 3 * 2 * 2
    assert {row["state"] for row in rows} == {"to run"}
    document = sharpkit("compare", "sgd", "--seeds", "2", *TINY, "-n", "--json").json
    assert [cell["seed"] for cell in document["cells"]] == ["0", "1"]


def test_a_file_of_options_with_lists(sharpkit):
    Path("c.toml").write_text('opt = ["sgd", "sam"]\nseeds = "2"\nlabel_noise = [0, 0.4]\nmodel = "mlp"\nepochs = 3\n')
    rows = list(csv.DictReader(io.StringIO(sharpkit("compare", "--config", "c.toml", "-n").stdout), delimiter="\t"))
    assert (len(rows), rows[0]["epochs"]) == (8, "3")
    rows = sharpkit("compare", "asam", "--config", "c.toml", "--epochs", "5", "-n").stdout.splitlines()[1:]
    assert [row.split("\t")[1:4] for row in rows[:2]] == [["asam", "0", "5"], ["asam", "1", "5"]]
    Path("c.toml").write_text("seed = 3\n")
    assert "seeds" in sharpkit("compare", "sgd", "--config", "c.toml", "-n").told


@pytest.mark.slow
def test_a_budget_in_gradients_gives_cheap_recipes_more_epochs(sharpkit):
    done = sharpkit("compare", "sgd", "sam", "looksam:k=5", "--seeds", "1", "--epochs", "12", "--budget", "grads", "-n")
    epochs = {line.split("\t")[1]: line.split("\t")[3] for line in done.stdout.splitlines()[1:]}
    assert epochs == {"sgd": "24", "sam": "12", "looksam:k=5": "20"}


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ([], 2, "no optimizer"),
        (["sgd", "smapa"], 2, "did you mean 'sampa'"),
        (["sgd", "sam:rho=0.1,x"], 2, "rho is 'x'"),
        (["sgd", "sgd"], 2, "sgd is there twice"),
        (["sam", "sam", "--lr", "0.1,0.1"], 2, "--lr"),
        (["sgd", "--model", "nope"], 2, "unknown model 'nope'"),
        (["sgd", "--model", "mlp,nope"], 2, "unknown model 'nope'"),
        (["sgd", "--data", "cifar10", "--data-dir", "empty"], 3, "cifar10 is missing"),
        (["sgd", "--model", "u.py:f"], 3, "u.py does not exist"),
        (["sgd", "--metric", "acuracy"], 2, "unknown metric 'acuracy'"),
        (["sgd", "--metric", "best_acc"], 2, "save-every best"),
        (["sgd", "--select", "val", "--val-frac", "0"], 2, "val-frac is 0"),
        (["sgd", "--sharpness", "lamda"], 2, "allowed are lambda"),
        (["sgd", "--baseline", "sam"], 2, "baseline names 'sam'"),
        (["sgd", "--require", "sam>=sgd"], 2, "require names 'sam'"),
        (["sgd", "--jobs", "0"], 2, "jobs is '0'"),
        (["sgd", "sam", "--rho", "0.1"], 2, "sam:rho=0.1"),
        (["sgd", "--plot", "a.png", "--plot-vs", "rho"], 2, "no row has"),
        (["sgd", "--scale", "0.1"], 2, "no --reproduce"),
        (["sgd", "--budget", "seconds", "-n"], 2, "--dry-run runs nothing"),
        (["--reproduce", "sampa/tabel1"], 2, "did you mean 'sampa/table1'"),
        (["--reproduce", "sampa/table7", "--lr", "3"], 2, "sampa/table7 decides it"),
        (["--reproduce", "sampa/table7", "--data-dir", "empty"], 3, "cifar10 is missing"),
        (["asam", "--reproduce", "sampa/table7"], 2, "no entry of that choice"),
        (["sgd", "--out", "file"], 2, "which is a file"),
    ],
)
def test_what_is_refused_before_anything_runs(fails, tmp_path, words, code, told):
    Path("file").write_text("")
    assert told in fails(code, "compare", *words)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_users_files_print_does_not_mix_with_the_result(sharpkit):
    write(
        "print('hello')\ndef f(shape, classes):\n    print('made')\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    done = sharpkit("compare", "sgd", "--seeds", "1", "--model", "u.py:f", "-n")
    assert done.stdout.startswith("run\toptimizer")
    assert "made" in done.stderr


@pytest.mark.slow
def test_a_cell_that_fails_does_not_stop_the_others_and_is_listed(sharpkit):
    write(
        "def f(shape, classes):\n"
        "    if torch.initial_seed() == 1:\n        raise ValueError('not this seed')\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    done = sharpkit("compare", "sgd", "sam", "--seeds", "3", *TINY, "--model", "u.py:f", "--json")
    assert done.code == 5
    document = done.json
    assert [row["n"] for row in document["rows"]] == [2, 2]
    assert document["ok"] is False
    assert sorted(failure["cell"].rpartition("-")[0] for failure in document["failed"]) == ["sam-s1", "sgd-s1"]
    assert all("u.py:f raised ValueError: not this seed" in failure["message"] for failure in document["failed"])
    told = "2 seeds: too few for a test, 3 are needed; 2 of 3 runs have a result (1 failed)"
    assert document["rows"][1]["sentence"].endswith(told)
    assert [(row["planned"], row["failed"], row["diverged"]) for row in document["rows"]] == [(3, 1, 0)] * 2


@pytest.mark.slow
def test_a_baseline_that_diverges_stays_the_baseline_now_and_from_its_folder(sharpkit):
    call = ("compare", "sam:rho=1e30", "sgd", "--seeds", "2", *TINY, "--metric", "acc", "--lr", "0.1")
    done = sharpkit(*call)
    assert done.code == 5
    lost, sgd = csv.DictReader(io.StringIO(done.stdout), delimiter="\t")
    assert (lost["opt"], lost["n"], lost["planned"], lost["diverged"], lost["acc_mean"]) == (
        "sam:rho=1e30",
        "0",
        "2",
        "2",
        "",
    )
    assert lost["says"] == "the baseline; 0 of 2 runs have a result (2 diverged)"
    assert (sgd["n"], sgd["diff"], sgd["pairs"]) == ("2", "", "")
    assert sgd["says"] == "of the baseline sam:rho=1e30 0 of 2 runs have a result (2 diverged)"
    again = sharpkit("compare", "--from", "runs", "--metric", "acc")
    rows = {row["opt"]: row for row in csv.DictReader(io.StringIO(again.stdout), delimiter="\t")}
    assert again.code == 0
    assert (rows["sam:rho=1e+30"]["planned"], rows["sam:rho=1e+30"]["diverged"]) == ("2", "2")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--lr", "1e30"], 4, "the validation loss is nan after step 1"),
        (["--model", "u.py:f"], 3, "returns shape"),
    ],
)
def test_a_reason_that_all_cells_fail_for_is_the_commands(sharpkit, words, code, told):
    write("def f(shape, classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))\n")
    done = sharpkit("compare", "sgd", "sam", "--seeds", "2", *TINY, *words)
    assert (done.code, done.stdout) == (code, "")
    assert told in done.told


@pytest.mark.slow
def test_the_sharpness_of_final_checkpoints_is_that_of_the_commands(sharpkit):
    call = ("compare", "sgd", "--seeds", "1", *TINY, "--sharpness", "lambda,ratio,trace,worst", "--metric", "acc")
    row = table(sharpkit(*call).stdout)[0]
    (folder,) = Path("runs/compare").glob("sgd-*")
    asked = ("--top", "5", "--trace", "deflated", "--no-plot", "--no-density", "--json")
    hessian = sharpkit("hessian", folder, *asked).json["results"][0]
    assert float(row["lambda_mean"]) == pytest.approx(hessian["lambda1"], rel=1e-3)
    assert float(row["ratio_mean"]) == pytest.approx(hessian["ratio"], rel=1e-2)
    assert float(row["trace_mean"]) == pytest.approx(hessian["trace"]["value"], abs=2 * hessian["trace"]["error"])
    rise = sharpkit("sharpness", folder, "--rho", "0.05", "--no-plot", "--json").json["results"][0]
    assert float(row["worst_mean"]) == pytest.approx(rise["ascent"]["value"], rel=1e-3)
    assert table(sharpkit(*call).stdout)[0] == row


@pytest.mark.slow
def test_a_budget_in_seconds_is_timed_once(sharpkit):
    call = ("compare", "sgd", "sam", "--seeds", "1", *TINY, "--epochs", "6", "--budget", "seconds")
    first = sharpkit(*call, "--metric", "acc,epochs")
    assert first.code == 0, first.stderr
    assert "timing 2 recipes" in first.stderr
    again = sharpkit(*call, "--metric", "acc,epochs")
    assert "timing" not in again.stderr
    assert again.stdout == first.stdout
    assert table(first.stdout)[0]["epochs_mean"] == "6.0"
    assert "note: epochs for the same seconds: sgd 6, sam " in first.stderr
    assert len(table(sharpkit("compare", "--from", "runs").stdout)) == 2, "pilots are no runs of the table"

"""`sharpkit plot`: means over seeds, what is compared, files, exit codes, and a figure's data."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import tomli_w

from sharpkit.commands.curves import averaged, named_groups, read_run
from sharpkit.engine.rundir import RunDir
from sharpkit.figures.curves import curves
from tests.cli.conftest import TINY, plain


def write_run(name, *, seed=0, opt="sam", losses=(2.0, 1.0), probes=(), **config):
    folder = Path(name)
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(tomli_w.dumps({"opt": opt, "seed": seed, "epochs": len(losses), **config}))
    lines = [{"kind": "probe", "step": 0, "epoch": 0.0, "lambda_max": probes[0], "seconds": 0.1}] if probes else []
    for i, loss in enumerate(losses, 1):
        lines.append({"kind": "step", "step": 5 * i - 2, "epoch": i, "loss": loss + 0.1})
        lines.append({"kind": "epoch", "step": 5 * i, "epoch": i, "train_loss": loss, "train_acc": 0.1 * i,
                      "val_loss": None, "val_acc": None, "pct_sam": 100.0, "gradients": 10.0 * i,
                      "seconds": 2.0 * i})  # fmt: skip
        if probes:
            lines.append({"kind": "probe", "step": 5 * i, "epoch": float(i), "lambda_max": probes[i], "seconds": 0.1})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def rows(done):
    header, *lines = [line.split("\t") for line in done.stdout.splitlines()]
    return [dict(zip(header, line, strict=True)) for line in lines]


def test_runs_that_differ_in_their_seed_are_averaged(sharpkit):
    for seed, losses in enumerate([(2.0, 1.0), (4.0, 3.0), (3.0, 8.0)]):
        write_run(f"r/sam-{seed}", seed=seed, losses=losses, device="cpu" if seed else "auto")
    write_run("r/sgd-0", opt="sgd", losses=(5.0, 6.0))
    done = sharpkit("plot", "r/sam-0", "r/sam-1", "r/sam-2", "r/sgd-0", "-o", "t.csv", "--metric", "train_loss")
    assert done.code == 0, done.stderr
    found = rows(done)
    assert [(r["group"], r["runs"], r["last"]) for r in found] == [("sam", "3", "4"), ("sgd", "1", "6")]
    assert float(found[0]["std"]) == pytest.approx(np.std([1, 3, 8], ddof=1), rel=1e-2)
    points = list(csv.DictReader(Path("t.csv").read_text().splitlines()))
    assert [float(p["mean"]) for p in points if p["group"] == "sam"] == [3, 4]
    assert [float(p["std"]) for p in points if p["group"] == "sam"] == pytest.approx([1, np.std([1, 3, 8], ddof=1)])
    assert [(float(p["low"]), float(p["high"])) for p in points if p["group"] == "sam"] == [(2, 4), (1, 8)]


def test_the_name_says_what_differs():
    given = (("a", "sam", 0.2, 0), ("b", "sam", 0.4, 0), ("c", "sgd", 0.2, 0), ("d", "sgd", 0.2, 1))
    runs = [
        read_run(name, RunDir(write_run(name, opt=opt, label_noise=noise, seed=seed)))
        for name, opt, noise, seed in given
    ]
    assert {name: [r.name for r in group] for name, group in named_groups(runs).items()} == {
        "sam, label-noise 0.2": ["a"],
        "sam, label-noise 0.4": ["b"],
        "sgd, label-noise 0.2": ["c", "d"],
    }
    assert list(named_groups(runs, by_run=True)) == ["a", "b", "c", "d"]


def test_runs_of_different_length_and_holes_are_averaged_over_those_that_are_there():
    a = read_run("a", RunDir(write_run("a", losses=(2.0, math.nan, 1.0))))
    b = read_run("b", RunDir(write_run("b", losses=(4.0, 3.0), seed=1)))
    text = Path("a/metrics.jsonl").read_text().replace("NaN", "null")
    Path("a/metrics.jsonl").write_text(text)
    a = read_run("a", RunDir(Path("a")))
    curve = averaged("x", [a, b], "train_loss", "step")
    np.testing.assert_array_equal(curve.x, [5, 10, 15])
    np.testing.assert_array_equal(curve.mean, [3, 3, 1])
    np.testing.assert_array_equal(curve.count, [2, 1, 1])
    np.testing.assert_allclose(curve.std, [math.sqrt(2), math.nan, math.nan])
    assert averaged("x", [a], "no_such_key", "step") is None


def test_probes_stand_where_they_were_made():
    run = read_run("a", RunDir(write_run("a", probes=(3.0, 2.0, 1.0))))
    for x, places in (("epoch", [0, 1, 2]), ("step", [0, 5, 10]), ("gradients", [0, 10, 20]), ("seconds", [0, 2, 4])):
        at, values = run.curve("lambda_max", x)
        np.testing.assert_array_equal(at, places)
        np.testing.assert_array_equal(values, [3, 2, 1])
    at, _ = run.curve("loss", "epoch")
    np.testing.assert_allclose(at, [3 / 5, 8 / 5])


def test_the_usual_panels_leave_out_what_says_nothing(sharpkit):
    write_run("a", probes=(3.0, 2.0, 1.0))
    done = sharpkit("plot", "a", "--json")
    assert [r["metric"] for r in done.json["results"]] == ["train_loss", "train_acc", "lambda_max"]
    assert done.json["files"] == ["a/curves.png"]
    assert Path("a/curves.png").read_bytes().startswith(b"\x89PNG")
    assert done.json["runs"] == {"sam": ["a"]}


def test_a_figure_shows_the_numbers_and_the_band():
    runs = [read_run(n, RunDir(write_run(n, seed=i, losses=(2.0 + i, 1.0 + i)))) for i, n in enumerate("abc")]
    curve = averaged("sam", runs, "train_acc", "epoch")
    loss = averaged("sam", runs, "train_loss", "epoch")
    figure = curves([loss, curve], "epoch", "se", log_y=True)
    first, second = figure.axes
    np.testing.assert_allclose(first.lines[0].get_ydata(), [3, 2])
    edges = first.collections[0].get_paths()[0].vertices[:, 1]
    assert edges.min() == pytest.approx(2 - 1 / math.sqrt(3))
    assert edges.max() == pytest.approx(3 + 1 / math.sqrt(3))
    np.testing.assert_allclose(second.lines[0].get_ydata(), [10, 20])  # percent
    assert (first.get_yscale(), second.get_yscale()) == ("log", "linear")
    assert (first.get_xlabel(), first.get_ylabel()) == ("epoch", "training loss")
    assert figure.legends[0].get_texts()[0].get_text() == "sam, mean of 3 runs and standard error"


def test_a_table_for_a_person(terminal):
    write_run("a")
    shown = plain(terminal("plot", "a", "-o", "f.pdf").stdout)
    assert "train_loss" in shown
    assert max(len(line) for line in shown.splitlines()) <= 80


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (3, ("nowhere",)),
        (3, ("empty",)),
        (2, ("a", "--metric", "val_lss")),
        (2, ("a", "--metric", ",")),
        (2, ("a", "-o", "f.txt")),
        (2, ("a", "--x", "hours")),
    ],
)
def test_bad_input(fails, code, arguments):
    write_run("a")
    Path("empty").mkdir()
    fails(code, "plot", *arguments)


def test_the_folder_of_a_figure_is_made(sharpkit):
    write_run("a")
    assert sharpkit("plot", "a", "-o", "new/folder/f.png").code == 0
    assert Path("new/folder/f.png").read_bytes().startswith(b"\x89PNG")
    Path("file").touch()
    done = sharpkit("plot", "a", "-o", "file/f.png")
    assert (done.code, "cannot write file/f.png" in done.told) == (3, True)


def test_some_runs_may_fail(sharpkit):
    write_run("a")
    done = sharpkit("plot", "a", "nowhere", "--json")
    assert done.code == 5
    assert [f["run"] for f in done.json["failed"]] == ["nowhere"]


@pytest.mark.slow
def test_a_real_run_with_probes(sharpkit):
    options = (
        *TINY,
        "--out",
        "r",
        "--opt",
        "sampa",
        "--probe",
        "grad-norm,cosine",
        "--probe-samples",
        "150",
        "-b",
        "60",
    )
    done = sharpkit("train", *options, "--json")
    assert done.code == 0, done.stderr
    assert done.json["metrics"]["grad_norm_sq"] > 0
    assert -1 <= done.json["metrics"]["xy_cosine"] <= 1
    assert done.json["cost"]["probe_s"] > 0
    found = {r["metric"]: r for r in rows(sharpkit("plot", "r", "-o", "f.svg"))}
    assert float(found["grad_norm_sq"]["last"]) == pytest.approx(done.json["metrics"]["grad_norm_sq"], rel=1e-4)

"""`sharpkit graddiff`, `gradnorm-qq` and `sharpness`: tables, files, JSON, several checkpoints, exit codes."""

import json
import math
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from sharpkit.commands import measure
from tests.cli.conftest import plain

FAST = {
    "graddiff": ("--threads", "1", "--batches", "2", "-b", "32"),
    "gradnorm-qq": ("--threads", "1", "--batches", "12", "-b", "16"),
    "sharpness": ("--threads", "1", "--samples", "60", "--steps", "3", "--directions", "4", "--m", "20"),
}
MODEL = """
def f(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, classes))
"""

commands = pytest.mark.parametrize("command", FAST)


@commands
def test_a_pipe_gets_a_line_a_checkpoint_and_the_files_are_written(sharpkit, run_dir, command):
    done = sharpkit(command, run_dir, run_dir / "ckpt.pt", *FAST[command], "--json")
    document = done.json
    common = {"schema", "ok", "command", "version", "args", "seed", "device", "env", "cost", "files", "warnings"}
    assert common <= set(document)
    cost = document["cost"]
    assert set(cost) == {"grads", "grads_sequential", "forwards", "backwards", "wall_s", "peak_mb"}
    assert cost["forwards"] >= cost["backwards"] > cost["grads"] > 0
    assert document["schema"] == f"sharpkit.{command}/1"
    assert [r["ckpt"] for r in document["results"]] == ["r", "r/ckpt.pt"]
    assert document["results"][0]["bn_mode"] == ("eval" if command == "sharpness" else "train")
    done = sharpkit(command, run_dir, *FAST[command])
    assert done.code == 0, done.stderr
    header, row = [line.split("\t") for line in done.stdout.splitlines()]
    assert dict(zip(header, row, strict=True))["ckpt"] == "r"
    assert (run_dir / f"ckpt-{command}.png").read_bytes().startswith(b"\x89PNG")
    assert np.load(run_dir / f"ckpt-{command}.npz")["ckpt"] == ["r"]


@commands
def test_a_table_for_a_person(terminal, run_dir, command):
    done = terminal(command, run_dir, *FAST[command], "--no-plot")
    shown = plain(done.stdout)
    assert done.code == 0
    assert "batch norm in" in " ".join(shown.split())
    assert max(len(line) for line in shown.splitlines()) <= 80


@pytest.mark.parametrize(
    "command", ["sharpness", *(pytest.param(c, marks=pytest.mark.slow) for c in ("graddiff", "gradnorm-qq"))]
)
def test_files_by_name(sharpkit, run_dir, command):
    assert sharpkit(command, run_dir, "r/ckpt.pt", *FAST[command], "-o", "f.svg").code == 0
    assert "<svg" in Path("f.svg").read_text()
    assert set(np.load("f.npz")["ckpt"]) == {"r", "r/ckpt.pt"}
    assert sharpkit(command, run_dir, *FAST[command], "-o", "t.csv").code == 0
    lines = Path("t.csv").read_text().splitlines()
    assert lines[0].startswith("ckpt,")
    assert len({line.count(",") for line in lines}) == 1


@pytest.mark.slow
@commands
def test_the_same_seed_gives_the_same_numbers_and_another_does_not(sharpkit, run_dir, command):
    texts = [sharpkit(command, run_dir, *FAST[command], "--no-plot", "--seed", seed).stdout for seed in ("1", "1", "2")]
    assert texts[0] == texts[1] != texts[2]


def test_graddiff_in_json_adds_up(sharpkit, run_dir):
    options = (*FAST["graddiff"], "--json", "--no-plot", "--per-layer", "--opt", "asam:rho=1")
    (result,) = sharpkit("graddiff", run_dir, *options).json["results"]
    assert result["entries"] == 2 * result["parameters"]
    assert result["entries"] == result["counted"] + result["excluded"]
    assert sum(layer["negative"] for layer in result["layers"]) == result["negative"]
    assert sum(kind["excluded"] for kind in result["kinds"]) == result["excluded"]
    held = result["histogram"]
    assert sum(held["counts"]) + held["under"] + held["over"] + result["same"] == result["counted"]
    assert len(result["batches"]) == 2
    assert "asam" in result["rule"]
    assert result["rule"].count("rho=1.0") == 1


def test_graddiff_of_all_samples_and_to_base_ten(sharpkit, run_dir):
    options = ("graddiff", run_dir, "--threads", "1", "--samples", "all", "--no-plot", "--bn-mode", "eval")
    natural = sharpkit(*options).stdout.splitlines()[1].split("\t")
    header = sharpkit(*options, "--log", "10").stdout.splitlines()
    tenth = dict(zip(header[0].split("\t"), header[1].split("\t"), strict=True))
    natural = dict(zip(header[0].split("\t"), natural, strict=True))
    assert (natural["batches"], natural["batch_size"]) == ("1", "180")
    assert float(natural["median"]) == pytest.approx(math.log(10) * float(tenth["median"]), rel=1e-4)
    small = sharpkit(*options, "-b", "50").stdout.splitlines()[1].split("\t")
    assert dict(zip(header[0].split("\t"), small, strict=True))["median"] == natural["median"]


def test_gradnorm_says_what_it_means_for_ae_sam(sharpkit, run_dir):
    options = (*FAST["gradnorm-qq"], "--json", "--no-plot", "--lam1", "0", "--lam2", "2")
    document = sharpkit("gradnorm-qq", run_dir, *options).json
    (result,) = document["results"]
    assert result["n"] == len(result["values"]) == 12
    assert result["ae_sam"]["nominal"] == pytest.approx(0.195, abs=1e-3)
    assert 0 < result["ae_sam"]["empirical_averaged"] < 0.5
    assert result["mean"] == pytest.approx(np.mean(result["values"]))
    assert any("passes over the samples" in w for w in document["warnings"])
    only = sharpkit("gradnorm-qq", run_dir, *FAST["gradnorm-qq"], "--no-plot", "--test", "anderson", "--replacement")
    assert "A2" in only.stdout
    assert "W\t" not in only.stdout
    assert "passes" not in only.stderr


def test_sharpness_in_json(sharpkit, run_dir):
    (result,) = sharpkit("sharpness", run_dir, *FAST["sharpness"], "--json", "--rho", "0.2").json["results"]
    assert result["rho"] == 0.2
    assert result["ascent"]["value"] >= result["one_step"]["value"] > 0
    assert len(result["average"]["directions"]) == 4
    assert result["m_sharpness"]["m"] == 20


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (2, ("graddiff", "r", "--opt", "sgd")),
        (2, ("graddiff", "r", "--opt", "sampa")),
        (2, ("graddiff", "r", "--opt", "sam:rho=1", "--rho", "2")),
        (2, ("graddiff", "r", "--samples", "all", "--batches", "3")),
        (2, ("graddiff", "r", "--samples", "few")),
        (2, ("graddiff", "r", "--rho", "0")),
        (2, ("graddiff", "r", "--low", "3", "--high", "2")),
        (2, ("graddiff", "r", "-b", "1000")),
        (2, ("graddiff", "r", "-o", "x.txt")),
        (2, ("gradnorm-qq", "r", "--batches", "3")),
        (2, ("gradnorm-qq", "r", "--delta", "1")),
        (2, ("gradnorm-qq", "r", "-b", "181")),
        (2, ("sharpness", "r", "--opt", "vasso")),
        (2, ("sharpness", "r", "--steps", "0")),
        (3, ("sharpness", "nowhere")),
        (3, ("graddiff", "r", "--data", "nowhere.py:f")),
    ],
)
def test_bad_options(fails, run_dir, code, arguments):
    fails(code, *arguments, "--threads", "1")


@commands
def test_some_checkpoints_may_fail(sharpkit, run_dir, command):
    partial = sharpkit(command, run_dir, "nowhere", *FAST[command], "--json", "--no-plot")
    assert partial.code == 5
    assert partial.json["ok"] is False
    assert [f["ckpt"] for f in partial.json["failed"]] == ["nowhere"]


@commands
def test_a_diverged_checkpoint_is_told(fails, run_dir, command):
    state = torch.load(run_dir / "ckpt.pt", weights_only=True)
    state["model"]["1.weight"].fill_(1e38)
    torch.save(state, "bad.pt")
    fails(4, command, "bad.pt", *FAST[command])


@commands
def test_ctrl_c_gives_what_was_found(sharpkit, run_dir, monkeypatch, command):
    class Interrupted(measure.Quiet):
        def __init__(self, _):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def done(self, done, total):
            if done == {"graddiff": 1, "gradnorm-qq": 9, "sharpness": 4}[command]:
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("sharpkit.cli.work_progress.WorkProgress", Interrupted)
    done = sharpkit(command, run_dir, *FAST[command], "--json", "--no-plot")
    assert done.code == 130
    assert json.loads(done.stdout)["results"][0]["complete"] is False
    assert "stopped by SIGINT" in done.stderr


@pytest.mark.slow
def test_help_does_not_import_torch(process):
    for command in FAST:
        done = process(f"""python - <<'END'
import sys
from sharpkit.cli.main import run
run(["{command}", "--help"])
assert "torch" not in sys.modules and "matplotlib" not in sys.modules and "scipy" not in sys.modules
END""")
        assert done.code == 0, done.stderr

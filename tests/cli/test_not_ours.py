"""Files of somebody else's are never removed or replaced, and what is in the current folder never runs."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import write

TINY = ("--epochs", "1", "--limit", "120", "--model", "mlp", "--threads", "1")


@pytest.fixture
def run(sharpkit):
    """A finished run in r."""
    assert sharpkit("train", *TINY, "--out", "r").code == 0
    return Path("r")


def test_a_folder_with_our_names_and_no_run_is_not_overwritten(sharpkit, fails):
    Path("theirs").mkdir()
    Path("theirs/config.toml").write_text("lr = 1\n")
    Path("theirs/best_model.pt").write_text("weeks of work")
    assert "theirs is not empty and holds no run" in fails(2, "train", *TINY, "--out", "theirs", "--overwrite")
    assert sorted(p.name for p in Path("theirs").iterdir()) == ["best_model.pt", "config.toml"]


@pytest.mark.parametrize("words", [("--opt", "sam:rho=1e30"), ("--model", "u.py:f")])
def test_a_run_is_lost_to_none_that_comes_to_nothing(sharpkit, run, words):
    write("def f(shape, classes):\n    return Bad()\n\n\nclass Bad(nn.Module):\n    def forward(self, x): return x\n")
    (run / "swa.pt").write_text("mine")
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    done = sharpkit("train", *TINY, *words, "--lr", "1", "--out", "r", "--overwrite")
    assert done.code in (3, 4), done.stderr
    assert {p.name: p.read_bytes() for p in run.iterdir()} == before
    if done.code == 4:
        assert "the run in r is as it was" in done.told


def test_a_run_that_goes_well_takes_its_place_and_leaves_other_files(sharpkit, run):
    (run / "swa.pt").write_text("mine")
    assert sharpkit("hessian", "r", "--top", "1", "--no-density").code == 0
    assert (run / "ckpt-hessian.npz").exists()
    assert sharpkit("train", *TINY, "--seed", "5", "--out", "r", "--overwrite").code == 0
    assert json.loads((run / "summary.json").read_text())["args"]["seed"] == 5
    assert (run / "swa.pt").read_text() == "mine"
    assert not (run / "ckpt-hessian.npz").exists(), "it was measured of the checkpoint that is gone"
    assert not (run / ".new").exists()


FOREIGN = {
    "a.csv": lambda path: path.write_text("name,grade\nme,1\n"),
    "a.npz": lambda path: np.savez(path, thesis=np.ones(3)),
    "a.png": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n holiday"),
    "a.svg": lambda path: path.write_text("<svg></svg>"),
    "a.pdf": lambda path: path.write_bytes(b"%PDF-1.4 thesis"),
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("command", ["hessian", "sharpness", "graddiff", "gradnorm-qq", "landscape", "plot"])
def test_a_foreign_file_is_not_replaced_by_a_result(fails, run, command, name):
    FOREIGN[name](Path(name))
    before = Path(name).read_bytes()
    told = fails(2 if (command, name) == ("plot", "a.npz") else 3, command, "r", "-o", name)
    assert "is there and is no result of sharpkit" in told or (command, name) == ("plot", "a.npz")
    assert Path(name).read_bytes() == before


@pytest.mark.parametrize("name", ["a.csv", "a.npz", "a.png", "a.svg", "a.pdf"])
def test_a_result_of_ours_is_replaced_by_another(sharpkit, run, name):
    for seed in ("0", "1"):
        words = ("sharpness", "r", "-o", name, "--limit", "60", "--seed", seed)
        assert sharpkit(*words).code in (0, 2), seed
        done = sharpkit("gradnorm-qq", "r", "-o", name, "--batch-size", "20")
        assert done.code == 0, done.stderr


def test_figures_of_a_comparison(fails, run):
    FOREIGN["a.png"](Path("a.png"))
    for option in ("--plot", "--curves"):
        assert "is no result of sharpkit" in fails(3, "compare", "--from", "r", option, "a.png")


@pytest.mark.slow
def test_modules_of_the_current_folder_are_not_imported_by_workers(sharpkit):
    for name in ("queue", "json", "random", "torch"):
        Path(f"{name}.py").write_text("raise SystemExit('this ran')\n")
    done = sharpkit("compare", "sgd", "--seeds", "1", *TINY[:6], "--jobs", "1")
    assert done.code == 0, done.stderr


def test_too_many_runs_are_refused_at_once(fails):
    many = ",".join(str(i) for i in range(1, 1001))
    start = time.monotonic()
    assert "allowed are 20000" in fails(2, "compare", f"sam:rho={many}", "--wd", many, "--seeds", "1", "-n")
    assert "allowed are 20000" in fails(2, "compare", f"gnp:rho={many}:alpha={many}", "--seeds", "1", "-n")
    assert time.monotonic() - start < 20


def test_a_start_that_was_killed_before_its_first_checkpoint_is_started_again(sharpkit):
    assert sharpkit("train", *TINY, "--out", "r").code == 0
    for name in ("ckpt.pt", "summary.json", "seal.json"):
        Path("r", name).unlink()
    done = sharpkit("train", *TINY, "--out", "r", "--resume", "auto")
    assert (done.code, done.stdout) == (0, "r/ckpt.pt\n"), done.stderr
    assert Path("r/seal.json").exists()


@pytest.mark.slow
def test_two_trainings_of_one_folder_are_one(sharpkit):
    words = [sys.executable, "-m", "sharpkit", "train", "--epochs", "500", "--out", "r", "--quiet"]
    first = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not Path("r/ckpt.pt").exists() or not Path("r/config.toml").exists():
            assert first.poll() is None
            time.sleep(0.1)
        for more in (("--overwrite",), ("--resume", "auto")):
            second = subprocess.run([*words, *more], capture_output=True, text=True, timeout=120)
            assert second.returncode == 3, second.stderr
            assert f"r is in use by process {first.pid}" in second.stderr
    finally:
        first.kill()
        first.wait()
    assert sharpkit("train", "--epochs", "500", "--out", "r", "--resume", "auto", "-n").code == 0

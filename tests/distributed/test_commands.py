"""The commands on checkpoints in several processes: the results of one, on every process, written once."""

import json
import os
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sharpkit.cli.main import run
from tests.distributed.torchrun import ended, said, spread, start

MODEL = """
import torch, os, signal
from torch import nn

class Small(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, classes))
        self.passes = 0

    def forward(self, x):
        self.passes += 1
        if self.passes == int(os.environ.get("SIGNAL_AT", 0)) and os.environ.get("RANK") == "1":
            os.kill(os.getpid(), signal.SIGINT)
        return self.layers(x)

def model(shape, classes):
    return Small(classes)
"""

LOOSE = {"landscape": 2e-5}
"""In float32, where the others compute in float64."""

UNLIKE = {"seconds", "how", "residuals", "smallest", "fingerprint", "directions"}


def of_everyone(folder):
    """Leave what every command returned on every process, and which files it says are written."""
    from sharpkit.commands import graddiff, gradnorm_qq, hessian, landscape, sharpness
    from sharpkit.commands.graddiff_config import GradDiffConfig
    from sharpkit.commands.gradnorm_qq_config import GradNormConfig
    from sharpkit.commands.hessian_config import HessianConfig
    from sharpkit.commands.landscape_config import LandscapeConfig
    from sharpkit.commands.sharpness_config import SharpnessConfig

    name, wide = [str(folder / "run")], {"dtype": "float64", "threads": "1"}
    calls = {
        "hessian": (hessian, HessianConfig(top=2, steps=8, trace="hutchinson", per_layer=True, batch_size=50, **wide)),
        "landscape": (landscape, LandscapeConfig(x="-1:1:3", y="-1:1:2", batch_size=64, threads="1")),
        "sharpness": (sharpness, SharpnessConfig(steps=3, directions=3, m=64, batch_size=50, **wide)),
        "graddiff": (graddiff, GradDiffConfig(batches=3, batch_size=32, **wide)),
        "gradnorm-qq": (gradnorm_qq, GradNormConfig(batches=9, batch_size=16, **wide)),
    }
    rank = os.environ.get("RANK", "alone")
    for command, (module, config) in calls.items():
        measured = module.run(name, config, folder / f"{command}-{rank}.csv", plot=False)
        (folder / f"{command}-{rank}.json").write_text(json.dumps(measured.document()))


if __name__ == "__main__":
    of_everyone(Path(sys.argv[1]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run, of a model that can get a signal, and what each command says of it, in one process and in two."""
    path = tmp_path_factory.mktemp("commands")
    (path / "small.py").write_text(MODEL)
    asked = ("--model", f"{path}/small.py:model", "--limit", "200", "--epochs", "2", "--threads", "1", "-q")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        assert run(["train", *asked, "-o", str(path / "run")]) == 0
        of_everyone(path)
    process = start(2, str(path), folder=path, module="tests.distributed.test_commands")
    code, _, err = ended(process)
    assert code == 0, err
    return path


def close(got, expected, tol, where):
    if isinstance(expected, dict):
        for key in expected.keys() - UNLIKE:
            close(got[key], expected[key], tol, f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(got) == len(expected), where
        for i, (a, b) in enumerate(zip(got, expected, strict=True)):
            close(a, b, tol, f"{where}[{i}]")
    elif isinstance(expected, float):
        assert got == pytest.approx(expected, rel=tol, abs=tol, nan_ok=True), where
    else:
        assert got == expected, where


@pytest.mark.parametrize("command", ["hessian", "landscape", "sharpness", "graddiff", "gradnorm-qq"])
def test_two_processes_return_and_write_what_one_does(command, folder):
    alone, first, second = (json.loads((folder / f"{command}-{who}.json").read_text()) for who in ("alone", 0, 1))
    close(first["results"], alone["results"], LOOSE.get(command, 1e-9), command)
    close(second["results"], first["results"], 0, command)
    assert second["files"] == first["files"]
    assert (folder / f"{command}-0.csv").is_file()
    assert not (folder / f"{command}-1.csv").exists()


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_and_what_is_known_is_kept(folder):
    asked = ("landscape", "run", "--x", "-1:1:40", "--y", "-1:1:40", "--threads", "1", "-o", "stopped.npz", "--json")
    process = start(2, *asked, folder=folder, environment={"SIGNAL_AT": "400"})
    code, out, err = ended(process)
    assert code == 1  # torchrun's own, of any process that does not end with 0
    assert "stopped by SIGINT" in "".join(said(err))
    document = json.loads(out)
    assert not document["results"][0]["complete"]
    with np.load(folder / "stopped.npz") as held:
        known = len(held["points"])
    assert 100 < known < 1600
    code, out, err = spread(2, *asked, folder=folder)
    assert code == 0, err
    assert json.loads(out)["results"][0]["reused"] >= known - 1  # all but the centre, which is on no grid of 40


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "line"),
    [
        (("hessian", "run", "--backend", "pyhessian", "--no-density"), r"pyhessian, which runs in one process"),
        (("landscape", "run", "nowhere", "-o", "both.txt"), r"--out is both.txt"),
        (("gradnorm-qq", "nowhere"), r"nowhere"),
    ],
)
def test_what_is_wrong_is_told_once(asked, line, folder):
    began = time.monotonic()
    code, out, err = spread(2, *asked, folder=folder)
    assert code
    assert out == ""
    (told,) = said(err)
    assert re.search(line, told)
    assert time.monotonic() - began < 100

"""What a process that is killed, or whose disk is full, leaves behind."""

import os
import resource
import signal
import subprocess
import sys
import time

import pytest
import tomli_w

from sharpkit.engine import checkpoint
from sharpkit.engine.config import to_mapping
from sharpkit.engine.rundir import read_config, write_text
from tests.engine.support import metrics, outcome, resume, run, small, weights

pytestmark = pytest.mark.slow

SAVES = """
import sys, torch
from pathlib import Path
from sharpkit.engine.checkpoint import save
for step in range(10**6):
    save(Path(sys.argv[1]), {"step": step, "w": torch.full((200_000,), float(step))})
    print(step, flush=True)
"""

KILLED = """
import os, signal
from tests.engine.support import Stopper, run
from sharpkit.engine.config import TrainConfig, from_mapping
from sharpkit.engine.rundir import read_config
from pathlib import Path
import sys

class Killer(Stopper):
    def step(self, step, size):
        if step == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)

run(TrainConfig(**from_mapping(read_config(Path(sys.argv[1])), "c")), Path(sys.argv[2]), observer=Killer())
"""


def start(script, *arguments, **options):
    paths = os.pathsep.join(p for p in sys.path if p)
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.parametrize("delay", [0.0, 0.013, 0.037])
def test_a_kill_while_saving_leaves_a_whole_file(tmp_path, delay):
    path = tmp_path / "c.pt"
    with start(SAVES, path) as process:
        told = [process.stdout.readline() for _ in range(5)]
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        told += process.stdout.read().splitlines()
    document = checkpoint.load(path)
    assert document["step"] - int(told[-1]) in (0, 1)
    assert document["w"].unique().tolist() == [document["step"]]


@pytest.mark.parametrize("step", [3, 11])
def test_a_killed_run_goes_on_from_its_last_epoch(tmp_path, step):
    config = small(tmp_path, opt="sampa", augment="cutout", label_noise=0.2)
    reference = outcome(tmp_path / "a", run(config, tmp_path / "a"))
    write_text(tmp_path / "asked.toml", tomli_w.dumps(to_mapping(config)))
    with start(KILLED, tmp_path / "asked.toml", tmp_path / "b", step) as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, err
    assert checkpoint.load(tmp_path / "b/ckpt.pt")["step"] == step // 6 * 6
    assert read_config(tmp_path / "b/config.toml") == read_config(tmp_path / "a/config.toml")
    assert outcome(tmp_path / "b", resume(tmp_path / "b")) == reference


def test_a_disk_that_fills_up_during_a_run_keeps_the_last_good_checkpoint(tmp_path):
    """The first checkpoint fits; the next one, with momentum, does not."""
    config = small(tmp_path, opt="sgd")
    run(config, tmp_path / "a")
    whole = (tmp_path / "a/ckpt.pt").stat().st_size

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (whole * 4 // 5, whole * 4 // 5))

    script = "import sys; from sharpkit.cli.main import run; sys.exit(run(sys.argv[1:]))"
    words = ["train", "--config", tmp_path / "a/config.toml", "--out", tmp_path / "b"]
    with start(script, *words, preexec_fn=limit) as process:
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (3, "")
    line = err.splitlines()[-1]
    assert line.startswith(
        f"sharpkit: cannot write {tmp_path}/b/ckpt.pt: File too large; the last good ckpt.pt is kept"
    )
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == ["ckpt.pt", "config.toml", "env.json", "metrics.jsonl"]
    assert checkpoint.load(tmp_path / "b/ckpt.pt")["step"] == 0
    resume(tmp_path / "b")
    assert weights(tmp_path / "b") == weights(tmp_path / "a")
    assert metrics(tmp_path / "b") == metrics(tmp_path / "a")

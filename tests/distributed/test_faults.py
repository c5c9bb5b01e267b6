"""A process that dies, hangs or raises ends all of them, in bounded time and with one line that names it."""

import os
import re
import signal
import subprocess
import time

import pytest

from sharpkit.engine import checkpoint
from tests.distributed.torchrun import ended, left, said, spread, start

MODEL = """
import os, signal, time
from torch import nn

class Failing(nn.Module):
    def __init__(self, inputs, classes):
        super().__init__()
        self.layer = nn.Linear(inputs, classes)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        first = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
        if self.calls > 40 and os.environ["RANK"] == "1" and first:
            how = os.environ["HOW"]
            if how == "raise": raise ValueError("this one")
            if how == "die": os.kill(os.getpid(), signal.SIGKILL)
            if how == "hang": time.sleep(1000)
        return self.layer(x.flatten(1))

def model(shape, classes):
    size = 1
    for n in shape: size *= n
    return Failing(size, classes)
"""

TRAIN = ("train", "--model", "failing.py:model", "--limit", "256", "-b", "64", "--epochs", "12", "-o", "run")

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "failing.py").write_text(MODEL)
    return tmp_path


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ("raise", r"rank 1: the model fails at step \d+: ValueError: this one; .* last good checkpoint is run/ckpt.pt"),
        ("die", r"rank 1 ended or hangs; an exchange between processes failed"),
        ("hang", r"rank 1 ended or hangs; an exchange between processes failed, timed out"),
    ],
)
def test_one_line_names_the_process(how, line, folder):
    began = time.monotonic()
    process = start(2, *TRAIN, "--timeout", "6", folder=folder, environment={"HOW": how})
    code, out, err = ended(process)
    assert time.monotonic() - began < 200
    assert code != 0
    assert out == ""
    (told,) = said(err)
    assert re.search(line, told)
    assert left(process) == 0
    assert checkpoint.load(folder / "run" / "ckpt.pt")["step"] > 0


def test_a_diagnostic_does_not_wait_longer_either(folder):
    code, _, err = spread(2, *TRAIN, "--quiet", folder=folder, environment={"HOW": "nothing"})
    assert code == 0, err
    began = time.monotonic()
    words = ("gradnorm-qq", "run", "--batches", "200", "--timeout", "6")
    process = start(2, *words, folder=folder, environment={"HOW": "hang"})
    code, out, err = ended(process)
    assert time.monotonic() - began < 200
    assert (code != 0, out) == (True, "")
    assert "rank 1 ended or hangs; an exchange between processes failed, timed out" in "".join(said(err))
    assert left(process) == 0


def test_torchrun_starts_them_again_and_the_run_goes_on(folder):
    command = (*TRAIN, "--resume", "auto", "--quiet")
    code, out, err = spread(2, *command, folder=folder, environment={"HOW": "die"}, torchrun=("--max-restarts", "1"))
    assert code == 0, err
    assert out.strip() == "run/ckpt.pt"
    assert checkpoint.load(folder / "run" / "ckpt.pt")["step"] == 48


def test_a_signal_saves_the_run_at_one_step_of_all(folder):
    process = start(2, *TRAIN, "--epochs", "4000", folder=folder, environment={"HOW": "nothing"})
    file = folder / "run" / "metrics.jsonl"
    end = time.monotonic() + 100
    while not file.is_file() and time.monotonic() < end:
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    code, _, err = ended(process)
    assert code != 0
    (told,) = said(err)
    step = checkpoint.load(folder / "run" / "ckpt.pt")["step"]
    assert f"after step {step}; saved run/ckpt.pt; go on with: sharpkit train --resume run" in told


def test_ranks_end_when_torchrun_is_killed(tmp_path):
    """And leave a run that goes on."""
    run = tmp_path / "orphaned"
    process = start(2, "train", "--epochs", "100000", "--limit", "200", "--model", "mlp", "--out", str(run), "--quiet",
                    folder=tmp_path)  # fmt: skip

    def there():
        found = subprocess.run(["pgrep", "-f", "--", f"--out {run}"], capture_output=True, text=True, check=False)
        return [pid for pid in map(int, found.stdout.split()) if pid != process.pid]

    try:
        end = time.monotonic() + 120
        while not (run / "metrics.jsonl").exists() and time.monotonic() < end:
            time.sleep(0.2)
        assert len(there()) == 2
        process.kill()
        process.wait()
        end = time.monotonic() + 90
        while there() and time.monotonic() < end:
            time.sleep(0.2)
        assert there() == []
    finally:
        for pid in there():
            os.kill(pid, signal.SIGKILL)
        process.communicate()
    assert checkpoint.load(run / "ckpt.pt")["step"] > 0

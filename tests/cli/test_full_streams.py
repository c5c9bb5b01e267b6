"""A full disk under a stream: messages are dropped, and a result that cannot be written is one line and exit 3."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full"),
]

TRAIN = ("train", "--model", "mlp", "--limit", "120", "--epochs", "2", "--threads", "1")


def call(*words, out=None, err=None):
    """Exit code, stdout and stderr of a process whose streams are files."""
    with Path(out or os.devnull).open("w") as stdout, Path(err or "err").open("w") as stderr:
        code = subprocess.run([sys.executable, "-m", "sharpkit", *words], stdout=stdout, stderr=stderr).returncode
    return code, Path(err or "err").read_text() if err is None else ""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_training_does_not_end_because_nobody_can_be_told(here):
    assert call(*TRAIN, "--out", "r", err="/dev/full") == (0, "")
    assert Path("r/seal.json").exists()
    assert call("train", "--nope", err="/dev/full")[0] == 2


@pytest.mark.parametrize(
    "words", [("ls", "opts"), ("ls", "opts", "--json"), ("train", "--help"), (*TRAIN, "--json"), (*TRAIN, "-n")]
)
def test_a_result_that_cannot_be_written_is_one_line(here, words):
    code, told = call(*words, out="/dev/full")
    assert code == 3
    assert [line for line in told.splitlines() if line.startswith("sharpkit: ")] == [
        "sharpkit: No space left on device; give another place"
    ]
    assert "Traceback" not in told
    assert "Exception ignored" not in told

"""Running the program: in this process with captured streams, on a terminal, and as a process of its own."""

import fcntl
import json
import os
import pty
import re
import shlex
import shutil
import struct
import subprocess
import sys
import termios
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from sharpkit.cli.main import run
from sharpkit.commands import train as train_command
from sharpkit.engine.config import TrainConfig

TINY = ("--epochs", "2", "--limit", "200", "--model", "mlp", "--threads", "1")
"""Two epochs of two steps, on 180 samples."""

SOURCE = "import torch\nimport numpy as np\nfrom torch import nn\n\n"

MODEL = """
def f(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, classes))
"""
"""A small network, without batch norm."""

LAUNCH = "import sys; from sharpkit.cli.main import run; sys.exit(run(sys.argv[1:]))"


@dataclass(frozen=True)
class Result:
    """What a call wrote, and its exit code."""

    stdout: str
    stderr: str
    code: int

    @property
    def json(self):
        """The one document on stdout, in which NaN and Infinity are not allowed."""
        return json.loads(self.stdout, parse_constant=pytest.fail)

    @property
    def told(self):
        """The one line that an error is told in."""
        lines = [line for line in self.stderr.splitlines() if line.startswith("sharpkit: ")]
        assert len(lines) == 1, self.stderr
        assert self.stderr.endswith(lines[0] + "\n"), "more follows the error's line"
        assert "Traceback" not in self.stderr
        return lines[0]


@pytest.fixture(autouse=True)
def _alone(alone, many_runs, monkeypatch):
    """A folder of one's own, no settings of the caller, and torch left as it was."""
    for name in set(os.environ) - {"SHARPKIT_STATE_DIR"}:
        if name.startswith(("SHARPKIT_", "_SHARPKIT")) or name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TERM"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.fixture
def sharpkit(capsys):
    """Call the program in this process."""

    def call(*arguments):
        capsys.readouterr()
        code = run([str(a) for a in arguments])
        captured = capsys.readouterr()
        return Result(captured.out, captured.err, code)

    return call


@pytest.fixture
def train(sharpkit):
    """Call `sharpkit train` on a tiny run."""
    return lambda *arguments: sharpkit("train", *TINY, *arguments)


@pytest.fixture
def fails(sharpkit):
    """Call the program, and check that it says in one line what is wrong and leaves no half run."""

    def call(code, *arguments):
        done = sharpkit(*arguments)
        assert (done.code, done.stdout) == (code, "")
        told = done.told
        assert "run again with --traceback and report it" not in told
        assert ";" in told, "a remedy follows the message"
        assert len(told) < 600
        return told

    return call


@pytest.fixture
def refused(fails):
    """Train a user's model or data set, which is refused as an input."""
    return lambda option, *more: fails(
        3, "train", "--epochs", "1", "--limit", "60", "--threads", "1", option, "u.py:f", *more
    )


@pytest.fixture(scope="session")
def _trained(tmp_path_factory):
    """Runs of four epochs with a checkpoint of each, every network once."""

    @cache
    def call(source):
        folder = tmp_path_factory.mktemp("trained")
        (folder / "u.py").write_text(SOURCE + source)
        config = TrainConfig(model=f"{folder / 'u.py'}:f", epochs=4, limit=200, threads="1", save_every="1")
        train_command.run(config, folder / "run")
        return folder / "run"

    return call


@pytest.fixture
def run_dir(request, _trained, tmp_path):
    """A run of the network that the module's MODEL builds, or else of 610 parameters, as `r`."""
    source = getattr(request.module, "MODEL", MODEL)
    shutil.copytree(_trained(source), tmp_path / "r")
    return Path("r")


class Screen:
    """A terminal of 80 columns that remembers what was written to it."""

    def __init__(self):
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
        self.stream = os.fdopen(slave, "w")
        self._seen = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        while True:
            try:
                read = os.read(self._master, 65536)
            except OSError:  # the other end is closed
                return
            if not read:
                return
            self._seen += read

    def close(self):
        self.stream.close()
        self._reader.join()
        os.close(self._master)
        return self._seen.decode()


@pytest.fixture
def terminal(monkeypatch):
    """Call the program in this process with stdout, stderr or both on a terminal."""

    def call(*arguments, on=("stdout", "stderr")):
        screens = {name: Screen() for name in on}
        with monkeypatch.context() as patch:
            for name, screen in screens.items():
                patch.setattr(sys, name, screen.stream)
            code = run([str(a) for a in arguments])
        seen = {name: screen.close() for name, screen in screens.items()}
        return Result(seen.get("stdout", ""), seen.get("stderr", ""), code)

    return call


@pytest.fixture
def process(tmp_path_factory):
    """Run shell commands with the program as `sharpkit`, in a process of its own."""
    folder = tmp_path_factory.mktemp("bin")
    program = folder / "sharpkit"
    program.write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -c '{LAUNCH}' \"$@\"\n")
    program.chmod(0o755)
    python_path = os.pathsep.join(p for p in sys.path if p)
    path = os.pathsep.join([str(folder), os.environ["PATH"]])

    def call(command, **environment):
        done = subprocess.run(
            ["bash", "-c", command],
            env={**os.environ, "PATH": path, "PYTHONPATH": python_path, "OMP_NUM_THREADS": "1", **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )
        return Result(done.stdout, done.stderr, done.returncode)

    return call


def write(source, name="u.py"):
    """Write a user's file that may use torch, numpy and nn."""
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(SOURCE + source)


def plain(text):
    """Text without the codes that style it and move the cursor."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)

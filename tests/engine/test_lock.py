"""One process at a time in a run directory; nothing that a process left keeps the next one out."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sharpkit.engine.lock import NAME, claimed
from sharpkit.errors import InputError

HOLD = """
import sys
from pathlib import Path
from sharpkit.engine.lock import claimed

with claimed(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds a folder."""
    started = []

    def hold(folder):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.communicate()


def test_a_second_process_is_told_who_holds_it(tmp_path, holder):
    process = holder(tmp_path / "r")
    with (
        pytest.raises(InputError, match=rf"r is in use by process {process.pid} on .* since \d{{4}}-"),
        claimed(tmp_path / "r"),
    ):
        pass
    process.communicate("")
    with claimed(tmp_path / "r"):
        assert json.loads((tmp_path / "r" / NAME).read_text())["pid"] == os.getpid()
    assert list((tmp_path / "r").iterdir()) == []


def test_one_that_was_killed_holds_nothing(tmp_path, holder):
    process = holder(tmp_path / "r")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / "r" / NAME).exists()
    with claimed(tmp_path / "r"):
        pass


@pytest.mark.parametrize("said", ["", "{", "[]", '{"pid": "x"}', "\xff" * 100_000])
def test_a_lock_file_that_says_nothing_does_not_matter(tmp_path, holder, said):
    (tmp_path / NAME).write_text(said)
    with claimed(tmp_path):
        pass
    holder(tmp_path)
    (tmp_path / NAME).write_text(said)
    with pytest.raises(InputError, match="is in use by another process"), claimed(tmp_path):
        pass


def test_a_process_may_hold_it_twice(tmp_path, holder):
    with claimed(tmp_path):
        with claimed(tmp_path / "../" / tmp_path.name):
            pass
        assert (tmp_path / NAME).exists()
    holder(tmp_path)


def test_what_was_half_written_by_processes_that_are_no_more_is_swept(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for name in (f".ckpt.pt.{gone.pid}.tmp", f".ckpt.pt.{os.getpid()}.tmp", "mine.tmp", ".mine.tmp"):
        (tmp_path / name).write_text("half")
    with claimed(tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".ckpt.pt.{os.getpid()}.tmp", ".mine.tmp", "mine.tmp"]


def test_a_place_that_cannot_be_a_folder(tmp_path):
    Path(tmp_path / "f").write_text("")
    with pytest.raises(InputError, match="cannot use the folder"), claimed(tmp_path / "f"):
        pass

"""A comparison that is stopped, killed, torn or made elsewhere ends in the same table, to the last digit."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import LAUNCH
from tests.cli.test_compare import table

pytestmark = pytest.mark.slow

CALL = (
    "compare",
    "sgd",
    "sampa",
    "--seeds",
    "2",
    "--epochs",
    "12",
    "--model",
    "mlp",
    "--label-noise",
    "0.2",
    "--jobs",
    "2",
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder and the table of a comparison that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    done = start(*CALL, cwd=folder)
    out, err = done.communicate(timeout=120)
    assert done.returncode == 0, err
    return folder, table(out)


@pytest.fixture
def whole(undisturbed):
    return undisturbed[1]


def start(*words, cwd="."):
    paths = os.pathsep.join(p for p in sys.path if p)
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCH, *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def workers(process):
    """The processes that a comparison started."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    return [int(pid) for pid, parent, args in rows if int(parent) == process.pid and "sharpkit.cli.worker" in args]


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_for(condition, seconds=90.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def trained(epochs):
    """Whether some run has so many epochs."""
    return any(len(p.read_text().splitlines()) >= epochs for p in Path("runs/compare").glob("*/metrics.jsonl"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_every_run_and_the_same_command_goes_on(sharpkit, whole, number):
    process = start(*CALL)
    wait_for(lambda: trained(3))
    children = workers(process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert "the same command goes on" in err
    assert not any(map(alive, children))
    again = sharpkit(*CALL)
    assert again.code == 0, again.stderr
    assert "going on with" in again.stderr
    assert table(again.stdout) == whole


def test_a_killed_comparison_leaves_no_process_and_goes_on(sharpkit, whole):
    process = start(*CALL)
    wait_for(lambda: trained(2))
    children = workers(process)
    assert len(children) == 2
    process.kill()
    process.communicate()
    wait_for(lambda: not any(map(alive, children)), 30)
    again = sharpkit(*CALL)
    assert (again.code, table(again.stdout)) == (0, whole), again.stderr


def test_a_killed_process_is_told_and_its_run_gone_on_with(sharpkit, whole):
    process = start(*CALL)
    wait_for(lambda: trained(2))
    os.kill(workers(process)[0], signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 5
    assert "its process ended with signal 9" in err
    again = sharpkit(*CALL)
    assert (again.code, table(again.stdout)) == (0, whole), again.stderr


def test_half_a_run_is_told_and_made_anew(sharpkit, undisturbed):
    folder, whole = undisturbed
    shutil.copytree(folder / "runs", "runs")
    cells = sorted(path for path in Path("runs/compare").iterdir() if path.is_dir())
    (cells[0] / "seal.json").unlink()
    (cells[0] / "ckpt.pt").write_bytes((cells[0] / "ckpt.pt").read_bytes()[:1000])
    (cells[1] / "seal.json").unlink()
    (cells[1] / "ckpt.pt").unlink()
    (cells[2] / "config.toml").write_text((cells[2] / "config.toml").read_text() + "# mine\n")
    content = bytearray((cells[3] / "ckpt.pt").read_bytes())
    content[-30] ^= 1
    (cells[3] / "ckpt.pt").write_bytes(content)
    again = sharpkit(*CALL, "--json")
    assert again.code == 0, again.stderr
    warnings = "\n".join(again.json["warnings"])
    assert warnings.count("trained anew") == 4
    for cell, what in zip(
        cells, ("is half a run", "is half a run", "another config.toml", "another ckpt.pt"), strict=True
    ):
        assert f"{cell} " in warnings
        assert what in warnings
    assert table(sharpkit(*CALL).stdout) == whole


@pytest.mark.parametrize(
    ("out", "how"), [("runs/compare", "xargs -P2 -I{} sh -c '{}'"), ("a b's", "xargs -P2 -d '\\n' -I{} sh -c '{}'")]
)
def test_commands_that_others_run_complete_a_comparison(whole, process, out, how):
    words = " ".join(CALL)
    done = process(f'sharpkit {words} --emit-commands --out "{out}" | {how}')
    assert done.code == 0, done.stderr
    assert len(done.stdout.splitlines()) == 4
    after = process(f'sharpkit {words} --out "{out}"')
    assert "4 of 4 runs are finished already" in after.stderr, after.stderr
    assert table(after.stdout) == whole


def test_two_at_once_do_not_disturb_each_other(sharpkit, whole):
    first, second = start(*CALL), start(*CALL)
    outcomes = [process.communicate(timeout=180) for process in (first, second)]
    codes = sorted((first.returncode, second.returncode))
    assert codes[0] == 0 or codes == [5, 5], outcomes
    last = sharpkit(*CALL)
    assert (last.code, table(last.stdout)) == (0, whole), last.stderr

"""The command line in several processes, started by torchrun."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIMIT = 300


def start(size, *arguments, folder, **more):
    """Start `sharpkit` in several processes, in a process group of their own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}
    given = more.pop("environment", {})
    options = more.pop("torchrun", ())
    module = more.pop("module", "sharpkit")
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size), *options),
            *("-m", "--", module, *arguments),
        ],
        cwd=folder, env={**environment, **given}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def ended(process, limit=LIMIT):
    """Return exit code, stdout and stderr; nothing of the process group is left."""
    try:
        out, err = process.communicate(timeout=limit)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, out, err


def spread(size, *arguments, folder, **more):
    """Run `sharpkit` in several processes."""
    return ended(start(size, *arguments, folder=folder, **more))


def left(process):
    """Return how many processes of a group are there."""
    found = subprocess.run(["pgrep", "-g", str(process.pid)], capture_output=True, text=True, check=False)
    return len(found.stdout.split())


def said(err):
    """Return the lines that sharpkit's errors are."""
    return [line for line in err.splitlines() if line.startswith("sharpkit: ")]

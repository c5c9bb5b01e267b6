"""Runs a function on several ranks, in processes of their own that talk by gloo, and returns what each gave."""

import fcntl
import importlib
import os
import pickle
import subprocess
import sys
from functools import cache
from pathlib import Path

import torch
import torch.distributed as dist

ROOT = Path(__file__).parents[2]
LIMIT = 240


def on_ranks(size, function, *arguments, folder):
    """Return the values of `function(comm, *arguments)` on every rank, in the order of the ranks.

    Args:
        size: How many.
        function: Found by module and name in the other processes.
        arguments: Plain data.
        folder: For the files that the processes meet at and leave their values in.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "given").write_bytes(pickle.dumps((function.__module__, function.__qualname__, arguments)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.distributed.launch", str(rank), str(size), str(folder)],
            env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(size)
    ]  # fmt: skip
    try:
        told = [process.communicate(timeout=LIMIT)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * size, "\n".join(text[-4000:] for text in told)
    return [torch.load(folder / f"value{rank}", weights_only=False) for rank in range(size)]


@cache
def once(size, function, *arguments, folder):
    """Return the values of `on_ranks`, which the first of the tests that ask starts, in whichever worker of pytest.

    Args:
        size: How many ranks.
        function: As there.
        arguments: Plain data that can be hashed.
        folder: The same in all workers.

    Raises:
        AssertionError: In all tests that ask, if a rank failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "kept"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            try:
                values = on_ranks(size, function, *arguments, folder=folder)
            except AssertionError as error:
                values = str(error)
            torch.save(values, kept)
    values = torch.load(kept, weights_only=False)
    assert not isinstance(values, str), values
    return values


def main(rank, size, folder):
    """Be one of the ranks."""
    from sharpkit.core.comm import Ranks

    module, name, arguments = pickle.loads((folder / "given").read_bytes())
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    torch.save(getattr(importlib.import_module(module), name)(Ranks(), *arguments), folder / f"value{rank}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
    os._exit(0)  # threads of torch.distributed abort a process now and then that ends the usual way

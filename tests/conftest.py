"""What every test runs under."""

import os
import signal
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import settings

# The nets of the tests are small, and more threads make them slower. Torch reads it when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples every time, and no deadline: the machines that run the tests are shared.
settings.register_profile("sharpkit", deadline=None, derandomize=True)
settings.load_profile("sharpkit")

# A run started in the background of a script ignores SIGINT, and what it starts does so too. The tests of
# interruption need the default.
signal.signal(signal.SIGINT, signal.default_int_handler)

WORKERS = 4
"""A worker comes to hold more than a gigabyte, and with more of them most would wait for the longest test."""


def pytest_xdist_auto_num_workers(config):
    """One worker a core; none for a few files, which are done before workers have imported torch."""
    named = config.getoption("file_or_dir")
    few = 0 < len(named) < 4 and all(Path(each.partition("::")[0]).is_file() for each in named)
    watched = config.getoption("capture") == "no" or config.getoption("trace")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if few or watched or cores == 1 else min(cores, WORKERS)


@pytest.fixture(scope="session", autouse=True)
def _state(tmp_path_factory):
    """A state directory of this process's tests: none records anything in the home of whoever runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHARPKIT_STATE_DIR", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """A folder of one's own, and torch left as it was."""
    import torch

    monkeypatch.chdir(tmp_path)
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@cache
def _parsed(table):
    return table()


@pytest.fixture
def many_runs(monkeypatch):
    """The digits read once, and files that do not wait for the disk: no test cuts the power.

    Processes that a test starts, and may kill, are not concerned.
    """
    digits = import_module("sharpkit.data.digits")  # sharpkit.data.digits is the function in it
    table = digits._table
    monkeypatch.setattr(digits, "_table", lambda: _parsed(table).copy())
    monkeypatch.setattr(os, "fsync", lambda _: None)

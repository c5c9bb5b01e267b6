"""Processes that train the cells of a comparison side by side."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from sharpkit.engine.cells import Cell
from sharpkit.engine.config import to_mapping
from sharpkit.engine.runtime import StopRequest
from sharpkit.errors import SharpkitError

_LOOK = 0.2  # seconds between two looks at a signal
_PATIENCE = 120.0  # seconds that processes have to save and end


class Watcher(Protocol):
    """Is told how cells go."""

    def begin(self, cell: Cell, epoch: float) -> None:
        """Tell that a cell is begun, or gone on with after so many epochs."""
        ...

    def epoch(self, cell: Cell, epoch: int) -> None:
        """Tell that an epoch of a cell is done."""
        ...

    def end(self, cell: Cell, failure: Failure | None) -> None:
        """Tell that a cell is done, or failed."""
        ...

    def note(self, text: str) -> None:
        """Tell something else."""
        ...


@dataclass(frozen=True)
class Failure:
    """Why a cell has no result."""

    code: str
    exit_code: int
    message: str
    hint: str = ""


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    errors: IO[bytes]
    cell: Cell | None = None
    buffer: bytes = b""

    def last_words(self) -> str:
        """Return the last line that the process wrote to stderr."""
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""


@dataclass
class Pool:
    """Trains cells in processes of their own, which get their cells one at a time.

    A process that dies takes its cell with it and is replaced; a signal is passed on, so that every run is saved.

    Args:
        jobs: Processes.
        folder: The parent of the cells' folders.
        watcher: Is told how it goes.
        threads: Threads of each process; None leaves the choice to the environment.
        sharpness: Whether the final checkpoints are measured too.
    """

    jobs: int
    folder: Path
    watcher: Watcher
    threads: int | None = None
    sharpness: bool = False
    _workers: list[_Worker] = field(default_factory=list[_Worker], init=False)

    def run(self, cells: Sequence[Cell], stop: StopRequest) -> dict[str, Failure]:
        """Train the cells, and return what is wrong with those that failed, by name."""
        waiting, failures = list(reversed(cells)), dict[str, Failure]()
        with selectors.DefaultSelector() as selector:
            try:
                while (waiting or any(w.cell for w in self._workers)) and not stop.signal_number:
                    self._assign(waiting, selector)
                    self._listen(selector, failures)
                if stop.signal_number:
                    self._wind_up(selector, failures)
            finally:
                for worker in self._workers:
                    _end(worker)
        return failures

    def _assign(self, waiting: list[Cell], selector: selectors.BaseSelector) -> None:
        idle = [w for w in self._workers if w.cell is None]
        while waiting and (idle or len(self._workers) < self.jobs):
            worker = idle.pop() if idle else self._hire(selector)
            worker.cell = waiting.pop()
            job: dict[str, Any] = {
                "folder": str(self.folder / worker.cell.name),
                "config": to_mapping(worker.cell.config),
            }
            job |= {"sharpness": self.sharpness}
            assert worker.process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it has died; that is told when its output ends
                worker.process.stdin.write(json.dumps(job).encode() + b"\n")
                worker.process.stdin.flush()

    def _hire(self, selector: selectors.BaseSelector) -> _Worker:
        environment = dict(os.environ)
        if self.threads is not None:
            environment["OMP_NUM_THREADS"] = str(self.threads)
        errors = tempfile.TemporaryFile()  # noqa: SIM115
        process = subprocess.Popen(
            [sys.executable, "-m", "sharpkit.cli.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            start_new_session=True,  # so that Ctrl-C reaches it through us alone
        )
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        worker = _Worker(process, errors)
        selector.register(process.stdout, selectors.EVENT_READ, worker)
        self._workers.append(worker)
        return worker

    def _listen(self, selector: selectors.BaseSelector, failures: dict[str, Failure]) -> None:
        for key, _ in selector.select(_LOOK):
            worker: _Worker = key.data
            assert worker.process.stdout is not None
            read = worker.process.stdout.read()
            if read:
                *lines, worker.buffer = (worker.buffer + read).split(b"\n")
                for line in lines:
                    self._hear(worker, json.loads(line), failures)
            elif read == b"":
                selector.unregister(worker.process.stdout)
                self._workers.remove(worker)
                _end(worker)
                self._died(worker, failures)

    def _hear(self, worker: _Worker, event: dict[str, Any], failures: dict[str, Failure]) -> None:
        cell = worker.cell
        assert cell is not None
        match event.pop("event"):
            case "begin":
                self.watcher.begin(cell, event["epoch"])
            case "epoch":
                self.watcher.epoch(cell, event["epoch"])
            case "done":
                worker.cell = None
                self.watcher.end(cell, None)
            case "failed":
                worker.cell = None
                failures[cell.name] = Failure(**event)
                self.watcher.end(cell, failures[cell.name])
            case "stopped":
                worker.cell = None
            case _:  # notes of single runs, such as their threads, are in their folders
                pass

    def _died(self, worker: _Worker, failures: dict[str, Failure]) -> None:
        if worker.cell is None:
            return
        code = worker.process.returncode
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        words = worker.last_words()
        message = f"its process ended with {how}" + (f": {words}" if words else "")
        failure = Failure("died", 1, message, "run the command again, which goes on with it")
        failures[worker.cell.name] = failure
        self.watcher.end(worker.cell, failure)

    def _wind_up(self, selector: selectors.BaseSelector, failures: dict[str, Failure]) -> None:
        """Have every process save its run and end."""
        for worker in self._workers:
            worker.process.terminate()
        end = time.monotonic() + _PATIENCE
        while any(w.cell and w.process.poll() is None for w in self._workers) and time.monotonic() < end:
            time.sleep(_LOOK / 4)
        for worker in self._workers:
            worker.cell = None


def _end(worker: _Worker) -> None:
    """Close a process's input, which ends it, and wait."""
    assert worker.process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        worker.process.stdin.close()
    try:
        worker.process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        worker.process.kill()
        worker.process.wait()


def failure_of(error: SharpkitError) -> Failure:
    """Return an error as the failure of a cell."""
    return Failure(error.code, error.exit_code, error.message, error.hint)

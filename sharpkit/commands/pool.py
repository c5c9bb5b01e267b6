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
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from sharpkit.engine.cells import Cell
from sharpkit.engine.config import to_mapping
from sharpkit.engine.runtime import StopRequest

_LOOK = 0.2  # seconds between two looks at a signal
_PATIENCE = 120.0  # seconds that processes have to save and end
_END = 10.0  # seconds that a process has to end that has nothing to do


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
    """Why a cell has no result, or lacks a part of it."""

    code: str
    exit_code: int
    message: str
    hint: str = ""


_AGAIN = "run the command again, which goes on with it"


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

    A process that dies takes its cell with it and is replaced; a signal is passed on, so that every run is saved. A
    process whose standard input closes ends by itself, so none is left behind when this one is killed.

    Args:
        jobs: Processes.
        folder: The parent of the cells' folders.
        watcher: Is told how it goes.
        threads: Threads of each process; None leaves the choice to the environment.
        sharpness: What is measured of the final checkpoints.
    """

    jobs: int
    folder: Path
    watcher: Watcher
    threads: int | None = None
    sharpness: Collection[str] = ()
    told: list[str] = field(default_factory=list[str], init=False)
    """What a reader of the result must know."""
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
                    self._wind_up()
            except BaseException:  # nobody waits for them any more
                for worker in self._workers:
                    worker.process.terminate()
                raise
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
                "sharpness": list(self.sharpness),
            }
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
            [sys.executable, "-P", "-m", "sharpkit.cli.worker"],  # not the modules of the current folder
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
                words = worker.last_words()
                _end(worker)
                self._died(worker, words, failures)

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
                self._fail(worker, Failure(**event), failures)
            case "stopped":
                self._fail(worker, Failure("interrupted", 5, event["message"], _AGAIN), failures)
            case "told":
                self.told.append(event["text"])
                self.watcher.note(event["text"])
            case other:
                raise AssertionError(other)

    def _fail(self, worker: _Worker, failure: Failure, failures: dict[str, Failure]) -> None:
        cell, worker.cell = worker.cell, None
        assert cell is not None
        failures[cell.name] = failure
        self.watcher.end(cell, failure)

    def _died(self, worker: _Worker, words: str, failures: dict[str, Failure]) -> None:
        if worker.cell is None:
            return
        code = worker.process.returncode
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        message = f"its process ended with {how}" + (f": {words}" if words else "")
        self._fail(worker, Failure("died", 5, message, _AGAIN), failures)

    def _wind_up(self) -> None:
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
    process = worker.process
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(timeout=_END)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()
    worker.errors.close()

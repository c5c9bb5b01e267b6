"""Measuring checkpoints one after the other: the loop of all commands on checkpoints, and what it returns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch

from sharpkit.commands import checkpoints
from sharpkit.commands.checkpoint_config import CheckpointConfig
from sharpkit.commands.checkpoints import loaded, record
from sharpkit.commands.figure_files import FIGURES
from sharpkit.core.task import Batch
from sharpkit.engine import ranks, runtime
from sharpkit.engine.agreement import on_first, stopped
from sharpkit.engine.atomic import make_place
from sharpkit.engine.documents import document
from sharpkit.engine.environment import environment
from sharpkit.engine.runtime import StopRequest
from sharpkit.engine.trained import Trained
from sharpkit.errors import InputError, InterruptedRunError, SharpkitError

R = TypeVar("R")

Watch = Callable[[int, int], bool]
"""`(done, of how many) -> go on?`"""

DTYPES: dict[str, torch.dtype | None] = {"auto": None, "float32": torch.float32, "float64": torch.float64}


class Observer(checkpoints.Observer, Protocol):
    """Is told how it goes."""

    def done(self, done: int, total: int) -> None:
        """Tell how much is done."""
        ...


class Quiet(checkpoints.Quiet):
    """An observer that ignores everything."""

    def done(self, done: int, total: int) -> None:
        """Ignore."""


@dataclass(frozen=True)
class Form(Generic[R]):
    """How the results of a command are written.

    Args:
        command: Its name.
        document: A result as plain data.
        write: Writes all results to files, to one that is named or beside the checkpoints, with a figure or without;
            returns the files, and why there is no figure where none was asked for by name.
        notes: What a reader of a result should know.
        work: What a result took, by name: `grads` (gradients of a batch), `forwards` and `backwards` (samples), ...
        endings: Of a file that is named.
    """

    command: str
    document: Callable[[R], dict[str, Any]]
    write: Callable[[dict[str, R], Path | None, bool], tuple[list[Path], list[str]]]
    notes: Callable[[R], Sequence[str]]
    work: Callable[[R], dict[str, float]]
    endings: tuple[str, ...] = (*FIGURES, ".npz", ".csv")


@dataclass(frozen=True)
class Measured(Generic[R]):
    """What a command found.

    Args:
        form: How it is written.
        results: By the name that was given.
        failed: What is wrong with the checkpoints that have no result.
        files: What was written.
        signal_number: The signal that stopped it, 0 for none.
        args: The configuration.
        env: Versions and device.
        cost: Work, seconds, peak memory.
        warnings: What a reader should know.
        unwritten: Why there are no files.
    """

    form: Form[R]
    results: dict[str, R]
    failed: dict[str, SharpkitError]
    files: list[str]
    signal_number: int
    args: dict[str, Any]
    env: dict[str, Any]
    cost: dict[str, float]
    warnings: list[str]
    unwritten: SharpkitError | None = None

    @property
    def exit_code(self) -> int:
        """0, 3 without files, 5 where some checkpoints failed, 128 plus the number of a signal."""
        if self.signal_number:
            return 128 + self.signal_number
        return self.unwritten.exit_code if self.unwritten else 5 if self.failed else 0

    def document(self) -> dict[str, Any]:
        """Return the JSON document of the command."""
        failed = [{"ckpt": name, **error.told()} for name, error in self.failed.items()]
        body = {
            "args": self.args,
            "seed": self.args["seed"],
            "device": self.env["device"],
            "results": [{"ckpt": name, **self.form.document(result)} for name, result in self.results.items()],
            "failed": failed,
            "env": self.env,
            "cost": self.cost,
            "files": self.files,
            "warnings": self.warnings,
        }
        if self.unwritten:
            body["error"] = self.unwritten.told()
        return document(self.form.command, body, ok=self.exit_code == 0)


def measure(
    form: Form[R],
    names: Sequence[str],
    config: CheckpointConfig,
    one: Callable[[str, Trained, StopRequest], R],
    told: checkpoints.Observer,
    *,
    out: Path | None = None,
    plot: bool = True,
) -> Measured[R]:
    """Measure checkpoints and write what was found to files.

    Several processes, where torchrun or Slurm started them, measure each checkpoint together. The first one writes, and
    all return the same.

    Args:
        form: How results are written.
        names: Checkpoint files or run directories.
        config: What is computed.
        one: Measures a checkpoint, of this name; ends early where a signal asks to stop.
        told: Is told how it goes.
        out: A file for all of them; None puts files beside the checkpoints.
        plot: Whether a figure is drawn where `out` does not say.

    Raises:
        SharpkitError: As the errors of `sharpkit.errors` say; of several checkpoints only if all fail.
    """
    checkpoints.check_arguments(names, out, form.endings)
    comm = ranks.join(config.device, config.timeout)
    if out is not None:
        on_first(lambda: make_place(out))
    start = time.perf_counter()
    results: dict[str, R] = {}
    failed: dict[str, SharpkitError] = {}
    of_weights: list[str] = []
    env: dict[str, Any] = {}
    runtime.keep_freed_memory()
    with StopRequest() as stop:
        for name, trained in loaded(names, config, failed, stop, told):
            try:
                results[name] = one(name, trained, stop)
                env = environment(trained.device)
                of_weights += trained.notes
            except SharpkitError as error:
                record(name, error, failed, told, alone=len(set(names)) == 1)
        signal_number = stopped(stop)
    if not results:
        if signal_number:
            raise InterruptedRunError("stopped before anything was measured", "start it again", signal_number)
        raise next(iter(failed.values()))
    unwritten: SharpkitError | None = None
    files, warnings = list[Path](), list[str]()
    try:
        files, warnings = on_first(lambda: form.write(results, out, plot))
    except InputError as error:  # what was measured is told all the same
        unwritten = error
    warnings += of_weights
    warnings += [f"{name}: {note}" for name, result in results.items() for note in form.notes(result)]
    work = [form.work(result) for result in results.values()]
    return Measured(
        form=form,
        results=results,
        failed=failed,
        files=[str(file) for file in files],
        signal_number=signal_number,
        args={"checkpoints": list(names), **asdict(config)},
        env=env,
        cost={
            **{key: float(sum(took[key] for took in work)) for key in work[0]},
            "wall_s": round(time.perf_counter() - start, 3),
            "peak_mb": round(max(comm.objects(runtime.peak_mb(torch.device(env["device"])))), 1),
        },
        warnings=warnings,
        unwritten=unwritten,
    )


def choose_threads(config: CheckpointConfig, trained: Trained, batch: Batch, told: checkpoints.Observer) -> None:
    """Set the number of CPU threads for a checkpoint, by a pass over a batch where it is not given, and tell it."""
    _, sentence = runtime.pick_threads(config.threads, trained.model, trained.task, batch, trained.device)
    told.note(sentence)


def in_pieces(
    one: Callable[[Trained, Watch], R], probe: Callable[[Trained], Batch], config: CheckpointConfig, told: Observer
) -> Callable[[str, Trained, StopRequest], R]:
    """Return what measures a checkpoint piece by piece, and tells how many pieces are done.

    Args:
        one: Asks after every piece of work whether to go on.
        probe: A batch to choose the number of threads with.
        config: What is computed.
        told: Is told.
    """

    def measured(name: str, trained: Trained, stop: StopRequest) -> R:
        choose_threads(config, trained, probe(trained), told)

        def watch(done: int, total: int) -> bool:
            told.done(done, total)
            return not stop.signal_number

        return one(trained, watch)

    return measured


def in_sequence(grads: float, forwards: float, backwards: float, **more: float) -> dict[str, float]:
    """Return the work of gradients of which each waits for the one before."""
    return {**more, "grads": grads, "grads_sequential": grads, "forwards": forwards, "backwards": backwards}

"""Measuring checkpoints one after the other: what the commands on gradients do alike."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch

from sharpkit.commands import checkpoints
from sharpkit.commands.checkpoints import beside, beside_all, loaded, noted
from sharpkit.commands.figure_files import FIGURES, write_figure
from sharpkit.commands.train import peak_mb
from sharpkit.core.task import Batch
from sharpkit.engine import rundir, runtime
from sharpkit.engine.checkpoint import write_atomically
from sharpkit.engine.runtime import StopRequest
from sharpkit.engine.trained import Trained
from sharpkit.errors import InputError, SharpkitError

R = TypeVar("R")

Watch = Callable[[int, int], bool]
"""`(done, of how many) -> go on?`"""

DTYPES: dict[str, torch.dtype | None] = {"auto": None, "float32": torch.float32, "float64": torch.float64}

_SUFFIXES = (*FIGURES, ".npz", ".csv")


class Observer(checkpoints.Observer, Protocol):
    """Is told how it goes."""

    def done(self, done: int, total: int) -> None:
        """Tell how much is done."""
        ...


class Quiet(checkpoints.Quiet):
    """An observer that ignores everything."""

    def done(self, done: int, total: int) -> None:
        """Ignore."""


class Options(checkpoints.Wanted, Protocol):
    """The options that every such command has."""

    @property
    def threads(self) -> str:
        """CPU threads."""
        ...


@dataclass(frozen=True)
class Form(Generic[R]):
    """How the results of a command are written.

    Args:
        command: Its name.
        document: A result as plain data.
        arrays: A result as arrays.
        lines: All results as lines of a table, the header first.
        figure: All results as a matplotlib figure.
        notes: What a reader of a result should know.
        work: What a result took: gradients of a batch, samples of forward and of backward passes.
    """

    command: str
    document: Callable[[R], dict[str, Any]]
    arrays: Callable[[R], dict[str, Any]]
    lines: Callable[[Mapping[str, R]], list[list[Any]]]
    figure: Callable[[Mapping[str, R]], Any]
    notes: Callable[[R], list[str]]
    work: Callable[[R], tuple[float, float, float]]


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
        cost: Gradients, seconds, peak memory.
        warnings: What a reader should know.
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

    @property
    def exit_code(self) -> int:
        """0, 5 where some checkpoints failed, 128 plus the number of a signal."""
        return 128 + self.signal_number if self.signal_number else 5 if self.failed else 0

    def document(self) -> dict[str, Any]:
        """Return the JSON document of the command."""
        results = [{"ckpt": name, **self.form.document(result)} for name, result in self.results.items()]
        return checkpoints.document_of_checkpoints(self.form.command, self, results)


def measure(
    form: Form[R],
    names: Sequence[str],
    config: Options,
    one: Callable[[Trained, Watch], R],
    probe: Callable[[Trained], Batch],
    *,
    out: Path | None = None,
    plot: bool = True,
    observer: Observer | None = None,
) -> Measured[R]:
    """Measure checkpoints and write what was found to files.

    Args:
        form: How results are written.
        names: Checkpoint files or run directories.
        config: What is computed, a dataclass.
        one: Measures a checkpoint; asks after every piece of work whether to go on.
        probe: A batch to choose the number of threads with.
        out: A file for all of them, by its ending png, pdf, svg, npz or csv; a figure gets the arrays beside it. None
            puts CKPT-COMMAND.npz and .png beside the checkpoints.
        plot: Whether a figure is drawn where `out` does not say.
        observer: Is told how it goes.

    Raises:
        SharpkitError: As the errors of `sharpkit.errors` say; of several checkpoints only if all fail.
    """
    checkpoints.check_arguments(names, out, _SUFFIXES)
    told = observer or Quiet()
    start = time.perf_counter()
    results: dict[str, R] = {}
    failed: dict[str, SharpkitError] = {}
    env: dict[str, Any] = {}
    runtime.keep_freed_memory()
    with StopRequest() as stop:

        def watch(done: int, total: int) -> bool:
            told.done(done, total)
            return not stop.signal_number

        for name, trained in loaded(names, config, failed, stop, told):
            with noted(name, failed, told):
                _, sentence = runtime.pick_threads(
                    config.threads, trained.model, trained.task, probe(trained), trained.device
                )
                told.note(sentence)
                results[name] = one(trained, watch)
                env = rundir.environment(trained.device)
    if not results:
        raise next(iter(failed.values()))
    files, warnings = _write(form, results, out, plot)
    warnings += [f"{name}: {note}" for name, result in results.items() for note in form.notes(result)]
    grads, forwards, backwards = (sum(column) for column in zip(*map(form.work, results.values()), strict=True))
    cost = {
        "grads": grads,
        "grads_sequential": grads,
        "forwards": forwards,
        "backwards": backwards,
        "wall_s": round(time.perf_counter() - start, 3),
        "peak_mb": round(peak_mb(torch.device(env["device"])), 1),
    }
    args = {"checkpoints": list(names), **asdict(config)}  # pyright: ignore[reportArgumentType]
    signal_number = int(stop.signal_number)
    return Measured(form, results, failed, [str(f) for f in files], signal_number, args, env, cost, warnings)


def _write(form: Form[R], results: dict[str, R], out: Path | None, plot: bool) -> tuple[list[Path], list[str]]:
    """Write arrays and figure; return the files, and why there is no figure where none was asked for by name."""
    warnings: list[str] = []
    if out is not None:
        if out.suffix == ".csv":
            return [_write_lines(out, form.lines(results))], warnings
        files = [_write_arrays(out.with_suffix(".npz"), form, results)]
        if out.suffix in FIGURES:
            files.append(write_figure(out, form.figure(results)))
        return files, warnings
    ending = form.command
    files = [_write_arrays(beside(name, f"{ending}.npz"), form, {name: r}) for name, r in results.items()]
    if plot:
        try:
            files.append(write_figure(beside_all(list(results), f"{ending}.png"), form.figure(results)))
        except InputError as error:
            warnings.append(f"no figure was drawn: {error.message}; {error.hint}")
    return files, warnings


def _write_arrays(path: Path, form: Form[R], results: Mapping[str, R]) -> Path:
    """Write results as .npz; of several, the names of the arrays begin with 0/, 1/, ..., and `ckpt` names them."""
    arrays: dict[str, Any] = {"ckpt": np.array(list(results))}
    for i, result in enumerate(results.values()):
        head = f"{i}/" if len(results) > 1 else ""
        arrays |= {head + name: value for name, value in form.arrays(result).items()}
    write_atomically(path, lambda file: np.savez(file, **arrays))
    return path


def _write_lines(path: Path, lines: list[list[Any]]) -> Path:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    rundir.write_text(path, text.getvalue())
    return path

"""What was measured of checkpoints as files: arrays, lines of a table, a figure."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from sharpkit.commands.checkpoints import beside, beside_all
from sharpkit.commands.figure_files import FIGURES, write_figure
from sharpkit.engine import rundir
from sharpkit.engine.atomic import write_atomically
from sharpkit.errors import InputError

R = TypeVar("R")


@dataclass(frozen=True)
class Files(Generic[R]):
    """Writes results as arrays, lines and a figure.

    Args:
        ending: Of the files beside the checkpoints, before the point.
        arrays: A result as arrays.
        lines: All results as lines of a table, the header first.
        figure: All results as a matplotlib figure.
    """

    ending: str
    arrays: Callable[[R], dict[str, Any]]
    lines: Callable[[Mapping[str, R]], list[list[Any]]]
    figure: Callable[[Mapping[str, R]], Any]

    def __call__(self, results: dict[str, R], out: Path | None, plot: bool) -> tuple[list[Path], list[str]]:
        """Write them, as `Form.write` says."""
        if out is not None:
            if out.suffix == ".csv":
                return [write_lines(out, self.lines(results))], []
            files = [self._write_arrays(out.with_suffix(".npz"), results)]
            if out.suffix in FIGURES:
                files.append(write_figure(out, self.figure(results)))
            return files, []
        files = [self._write_arrays(beside(name, f"{self.ending}.npz"), {name: r}) for name, r in results.items()]
        drawn, warnings = drawn_if_possible(
            plot, lambda: write_figure(beside_all(list(results), f"{self.ending}.png"), self.figure(results))
        )
        return files + drawn, warnings

    def _write_arrays(self, path: Path, results: Mapping[str, R]) -> Path:
        """Write results as .npz; of several, the names of the arrays begin with 0/, 1/, ..., and `ckpt` names them."""
        arrays: dict[str, Any] = {"ckpt": np.array(list(results))}
        for i, result in enumerate(results.values()):
            head = f"{i}/" if len(results) > 1 else ""
            arrays |= {head + name: value for name, value in self.arrays(result).items()}
        write_atomically(path, lambda file: np.savez(file, **arrays))
        return path


def drawn_if_possible(wanted: bool, draw: Callable[[], Path]) -> tuple[list[Path], list[str]]:
    """Draw a figure that nobody asked for by name; return its file, and why there is none."""
    if not wanted:
        return [], []
    try:
        return [draw()], []
    except InputError as error:
        return [], [f"no figure was drawn: {error.message}; {error.hint}"]


def write_lines(path: Path, lines: list[list[Any]]) -> Path:
    """Write lines as .csv."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    rundir.write_text(path, text.getvalue())
    return path

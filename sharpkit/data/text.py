"""Texts with their labels before a tokenizer makes numbers of them, and the tables of text that they are read from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from sharpkit.data.images import unreadable
from sharpkit.errors import InputError, one_line


@dataclass(frozen=True)
class Texts:
    """Texts, or pairs of texts, with their targets.

    Args:
        first: N texts.
        second: The other text of every pair; None where a sample is one text.
        targets: (N,) class numbers, or numbers to be predicted.
    """

    first: tuple[str, ...]
    second: tuple[str, ...] | None
    targets: Tensor

    def __len__(self) -> int:
        return len(self.first)


@dataclass(frozen=True)
class Corpus:
    """A data set of texts, which becomes a `Dataset` by a model's own tokenizer.

    Args:
        name: For the run directory.
        train: Training texts, before a validation part is held out.
        test: Test texts; None cuts a third of the training texts off, class by class.
        classes: The number of classes; 1 where the targets are numbers to be predicted.
        metrics: What a model is judged by, names of `sharpkit.engine.metrics.METRICS`.
        further: More test texts, by name.
    """

    name: str
    train: Texts
    test: Texts | None
    classes: int
    metrics: tuple[str, ...] = ("acc",)
    further: Mapping[str, Texts] = field(default_factory=dict[str, Texts])


@dataclass(frozen=True)
class Table:
    """Rows of a file of columns divided by tabs.

    Args:
        path: Of the file, for messages.
        columns: Their names.
        rows: The number of the line and its columns.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[tuple[int, list[str]], ...]

    def texts(
        self,
        first: str,
        second: str | None,
        label: str,
        number: Callable[[str], float],
        *,
        unlabelled: tuple[str, ...] = (),
        skip_short: bool = False,
    ) -> Texts:
        """Return columns as texts.

        Args:
            first: The column of the text.
            second: The column of the other text of a pair; None where a sample is one text.
            label: The column of the label.
            number: The target that a label stands for; it raises ValueError or KeyError where there is none.
            unlabelled: What stands in the place of a label that is not known; such rows are left out.
            skip_short: Leave out rows with too few columns, in place of refusing the file.

        Raises:
            InputError: If a column, a label or all labels are missing.
        """
        wanted = [name for name in (first, second, label) if name is not None]
        absent = next((name for name in wanted if name not in self.columns), None)
        if absent is not None:
            raise unreadable(self.path, f"it has no column {absent!r}, its columns are {', '.join(self.columns)}")
        places = [self.columns.index(name) for name in wanted]
        found: list[list[str]] = []
        targets: list[float] = []
        for line, row in self.rows:
            if len(row) <= max(places):
                if skip_short:
                    continue
                raise unreadable(
                    self.path, f"line {line} has {len(row)} columns, at least {max(places) + 1} are needed"
                )
            *texts, told = (row[place] for place in places)
            if told.strip() in unlabelled:
                continue
            try:
                targets.append(_finite(number(told.strip())))
            except (ValueError, KeyError):
                raise unreadable(self.path, f"line {line} has the label {told!r}") from None
            found.append(texts)
        if not found:
            raise InputError(
                f"{self.path} has no labels", "give a file with labels; those of GLUE's test parts are not published"
            )
        made = torch.tensor(targets)
        columns = [tuple(column) for column in zip(*found, strict=True)]
        return Texts(columns[0], columns[1] if second is not None else None, made)


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(value)
    return value


def read_table(path: Path, columns: Sequence[str] | None = None) -> Table:
    """Return the rows of a file of columns divided by tabs; quotation marks are a part of the text.

    Args:
        path: UTF-8, with or without a byte order mark.
        columns: Their names where the file has no header.

    Raises:
        InputError: If it cannot be read, or is empty.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {one_line(error)}", "make it readable, or give another file") from error
    return parse_table(content, path, columns)


def parse_table(content: bytes, path: Path, columns: Sequence[str] | None = None) -> Table:
    """Return the rows of the content of such a file."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise unreadable(path, f"it is not UTF-8: {one_line(error)}") from error
    # Only at a newline: str.splitlines also cuts at characters that stand inside of texts.
    lines = [line.removesuffix("\r").split("\t") for line in text.split("\n")]
    rows = [(number, row) for number, row in enumerate(lines, 1) if row != [""]]
    if columns is None and rows:
        columns, rows = rows[0][1], rows[1:]
    if not rows or columns is None:
        raise unreadable(path, "it has no rows")
    return Table(path, tuple(columns), tuple(rows))


def class_numbers(labels: Sequence[str]) -> dict[str, int]:
    """Return the number of every class: in the order of their values where all are whole numbers, else of names."""
    names = set(labels)
    try:
        ordered = sorted(names, key=int)
    except ValueError:
        ordered = sorted(names)
    return {name: i for i, name in enumerate(ordered)}

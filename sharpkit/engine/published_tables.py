"""`TABLES`: the numbers that papers print, each with the recipe and the options that it is about.

The numbers are in `tables/`, one TOML file a paper, as text and as printed. This module does not import torch, so that
a wrong name is told at once.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from typing import Any

from sharpkit.errors import UsageError

PAPERS = ("ssam", "aesam", "sampa")
"""The first parts of the names, and the files in `tables/`."""

METRICS = {
    "acc": "test accuracy, %",
    "pct_sam": "steps that perturb, %",
    "flops": "floating-point operations over those of SGD",
    "mask_s": "seconds to estimate the Fisher information of a mask",
    "s_per_epoch": "seconds an epoch",
    "mcc": "Matthews correlation, times 100",
    "f1": "F1, %",
    "pearson": "Pearson correlation, times 100",
    "spearman": "Spearman correlation, times 100",
    "glue": "average of the tasks of GLUE, times 100",
}
"""What is printed, and in which unit."""

_CELL = re.compile(r"(?P<value>\d+(\.\d+)?)( ± (?P<spread>\d+\.\d+)| \((?P<delta>[+-]\d+\.\d+)\))?")
_NOT_OPTIONS = ("opt", "metric", "against", "average", "cells", "network")


@dataclass(frozen=True)
class Entry:
    """A number that a paper prints.

    Args:
        opt: The recipe, as in `--opt`; empty for an average over several.
        options: Options of the run in which this entry differs from others of its table.
        metric: One of `METRICS`.
        value: The number.
        spread: What is printed after ±.
        delta: The printed difference to the entry that it is compared with.
        against: The recipe that it is compared with; empty for none.
        printed: The cell as the paper has it, without units.
        note: What is odd about it.
    """

    opt: str
    options: Mapping[str, Any]
    metric: str
    value: float
    spread: float | None = None
    delta: float | None = None
    against: str = ""
    printed: str = ""
    note: str = ""


@dataclass(frozen=True)
class Average:
    """A printed average, and the entries that it is over."""

    entry: Entry
    over: tuple[Entry, ...]

    def recomputed(self) -> tuple[float, float | None]:
        """Return the mean, and the spread sqrt(sum s^2) / n where all n entries have one.

        Several metrics of one setting are averaged first, as GLUE does: A. Wang et al. (2019), section 3.
        """
        settings: dict[str, list[float]] = {}
        for entry in self.over:
            settings.setdefault(repr((entry.opt, sorted(entry.options.items()))), []).append(entry.value)
        spreads = [entry.spread for entry in self.over if entry.spread is not None]
        whole = len(spreads) == len(self.over) == len(settings)
        means = [sum(values) / len(values) for values in settings.values()]
        return sum(means) / len(means), math.hypot(*spreads) / len(spreads) if whole else None


@dataclass(frozen=True)
class Table:
    """A table of a paper, or a figure made of its tables.

    Args:
        name: PAPER/TABLE.
        caption: What it shows.
        source: Authors, year and place.
        seeds: From how many runs a number is, if the paper says so.
        baseline: The recipe that entries are compared with; empty where they are compared in pairs.
        common: Options of the run that all entries share.
        entries: The numbers.
        averages: Averages that are printed too.
        remarks: What the paper does not say, and what is not as in the paper.
        ours: Options and parameters of recipes that a table needs and the paper does not say, with the reason for each.
    """

    name: str
    caption: str
    source: str
    seeds: int | None
    baseline: str
    common: Mapping[str, Any]
    entries: tuple[Entry, ...]
    averages: tuple[Average, ...] = ()
    remarks: tuple[str, ...] = ()
    ours: Mapping[str, str] = field(default_factory=dict[str, str])

    def given(self, entry: Entry) -> dict[str, Any]:
        """Return what `presets.configured` makes the configuration of an entry's runs from."""
        return {**self.common, **entry.options, "opt": entry.opt}

    def reference(self, entry: Entry) -> Entry | None:
        """Return the entry that one is compared with: of the same metric and options, but for the number of epochs.

        Methods that cost less are often given more of them in one table.
        """

        def place(other: Entry) -> tuple[str, dict[str, Any]]:
            return other.metric, {name: value for name, value in other.options.items() if name != "epochs"}

        found = (other for other in self.entries if other.opt == entry.against and place(other) == place(entry))
        return next(found, None)


class _Tables(Mapping[str, Table]):
    """The tables; a paper's file is read when one of its tables is asked for."""

    def __getitem__(self, name: str) -> Table:
        paper = name.partition("/")[0]
        if paper not in PAPERS:
            raise KeyError(name)
        return _read(paper)[name]

    def __iter__(self) -> Iterator[str]:
        for paper in PAPERS:
            yield from _read(paper)

    def __len__(self) -> int:
        return sum(len(_read(paper)) for paper in PAPERS)


TABLES: Mapping[str, Table] = _Tables()
"""The published tables by name, PAPER/TABLE."""


def find(name: str) -> Table:
    """Return a published table by name.

    Raises:
        UsageError: If there is none of that name.
    """
    if name in TABLES:
        return TABLES[name]
    close = difflib.get_close_matches(name, TABLES, n=1)
    guess = f"did you mean {close[0]!r}? " if close else ""
    raise UsageError(f"unknown table {name!r}", f"{guess}allowed: {', '.join(TABLES)}")


Grid = Sequence[Sequence[tuple[Entry, bool]]]
"""The cells of a table by rows, each with whether it is an average."""


@cache
def _read(paper: str) -> Mapping[str, Table]:
    """Return the tables of a paper by name."""
    file = files("sharpkit.engine") / "tables" / f"{paper}.toml"
    document = tomllib.loads(file.read_text(encoding="utf-8"))
    read: dict[str, Table] = {}
    for key, raw in document["tables"].items():
        name = f"{paper}/{key}"
        grid = _grid(raw) if "rows" in raw else [_accuracies([read[f"{paper}/{part}"] for part in raw["of"]])]
        read[name] = Table(
            name=name,
            caption=raw["caption"],
            source=f"{document['cited']}, {raw['place']}",
            seeds=raw.get("seeds"),
            baseline=raw.get("baseline", ""),
            common=_shared(raw),
            entries=tuple(entry for row in grid for entry, average in row if not average),
            averages=tuple(_averages(grid)),
            remarks=(*document["remarks"], *raw.get("remarks", ())),
            ours=raw.get("ours", {}),
        )
    return read


def _grid(raw: Mapping[str, Any]) -> Grid:
    """Return the cells of a table. What a row says holds over what its column says, and that over what all share."""
    top = {"against": raw.get("baseline", ""), **raw["common"]}
    shared = _shared(raw)
    return [
        [
            (_entry({**top, **column, **row}, shared, cell), "average" in row or "average" in column)
            for column, cell in zip(raw["columns"], row["cells"], strict=True)
        ]
        for row in raw["rows"]
    ]


def _entry(said: Mapping[str, Any], shared: Mapping[str, Any], cell: str | Mapping[str, str]) -> Entry:
    """Return the entry of a cell, which is what is printed, alone or with a note."""
    printed, note = (cell, "") if isinstance(cell, str) else (cell["printed"], cell["note"])
    match = _CELL.fullmatch(printed)
    assert match, printed
    numbers = {name: float(text) for name, text in match.groupdict().items() if text is not None}
    options = {k: v for k, v in said.items() if k not in _NOT_OPTIONS and (k, v) not in shared.items()}
    opt, against = said.get("opt", ""), said["against"]
    if "average" in said:
        options.pop("preset", None)
    elif "preset" in options:
        options["preset"] = options["preset"].format(**{"network": said.get("model"), **said})
    if "average" in said or against == opt:
        against = ""
    return Entry(opt, options, said["metric"], **numbers, against=against, printed=printed, note=note)


def _shared(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that all entries share: not the presets whose name depends on the entry."""
    common = raw.get("common", {})
    return {name: value for name, value in common.items() if name not in _NOT_OPTIONS and "{" not in str(value)}


def _averages(grid: Grid) -> Iterator[Average]:
    """Yield the averages: of the rest of their row, or in a row of averages of the rest of their column."""
    for row in grid:
        for column, (entry, average) in enumerate(row):
            if average:
                line = [other[column] for other in grid] if all(flag for _, flag in row) else row
                yield Average(entry, tuple(other for other, flag in line if not flag))


def _accuracies(tables: Iterable[Table]) -> list[tuple[Entry, bool]]:
    """Return the accuracies of some tables, with all their options."""
    return [
        (replace(entry, options={**table.common, **entry.options}), False)
        for table in tables
        for entry in table.entries
        if entry.metric == "acc"
    ]

"""What `sharpkit compare` writes: the table in the form that its reader wants, and what a person should know of it."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

from sharpkit.cli.terminal import Terminal
from sharpkit.commands.compare_formats import FORMATS, columns
from sharpkit.commands.compare_result import CompareResult
from sharpkit.commands.origins import Origins, as_run, documents, lines
from sharpkit.engine.documents import document, to_json

if TYPE_CHECKING:
    from sharpkit.commands.study import Study

_TESTS = {"paired-t": "paired t-test", "wilcoxon": "Wilcoxon's signed-rank test", "welch": "Welch's t-test"}
_CORRECTIONS = {"holm": ", p corrected by Holm", "bh": ", p corrected by Benjamini and Hochberg", "none": ""}


def show_commands(study: Study) -> None:
    """Write one command line a run to stdout."""
    from sharpkit.commands.study import commands

    for words in commands(study):
        print(shlex.join(words))


def show_plan(study: Study, terminal: Terminal) -> None:
    """Write the runs and which are finished to stdout."""
    from sharpkit.commands.study import surveyed

    survey = surveyed(study)
    left = {cell.name for cell in survey.left}
    rows = [
        [cell.name, cell.label, str(cell.seed), str(cell.config.epochs), "to run" if cell.name in left else "finished"]
        for cell in study.cells
    ]
    if terminal.json:
        cells = [dict(zip(("cell", "opt", "seed", "epochs", "state"), row, strict=True)) for row in rows]
        settings = as_run(study.origins, study.cells)
        said = [{"opt": label, "settings": dict(at), "origins": documents(s)} for (label, at), s in settings.items()]
        notes = [*study.notes, *survey.notes]
        body = {"args": study.args, "jobs": study.jobs, "cells": cells, "origins": said, "warnings": notes}
        print(to_json(document("compare", body)), end="")
        return
    for note in [*study.notes, *survey.notes]:
        terminal.say(f"note: {note}")
    _show_origins(as_run(study.origins, study.cells), terminal)
    terminal.rows(["run", "optimizer", "seed", "epochs", "state"], rows, f"{len(rows)} runs, {study.jobs} at once")


def show(result: CompareResult, terminal: Terminal, form: str | None) -> None:
    """Write the table to stdout, and what a person should know of it to stderr."""
    for note in result.notes:
        terminal.say(f"note: {note}")
    if terminal.json:
        print(FORMATS["json"](result), end="")
    elif result.rows and (form == "table" or (form is None and terminal.person)):
        header, rows = columns(result)
        keys = header.index("n")
        for i, (names, lines) in enumerate(_fitting(header, rows, keys, terminal.out().width)):
            terminal.rows(names, lines, "" if i else _title(result), whole=1)
        for row in result.rows:
            if not row.baseline:
                place = "".join(f", {key} {value}" for key, value in row.group.settings)
                terminal.say(f"{row.group.label}{place}: {result.sentence(row)}")
        _show_origins(result.origins, terminal)
    elif result.rows:
        print(FORMATS[form or "tsv"](result), end="")
    _tell_outcome(result, terminal)


_BETWEEN = 3  # what lies between two columns
_Table = tuple[list[str], list[list[str]]]


def _fitting(header: list[str], rows: list[list[str]], keys: int, width: int) -> list[_Table]:
    """Return a table as several that fit a width without breaking a number, each with the first columns.

    Args:
        header: Names of the columns, which may be broken at spaces.
        rows: Their cells; an interval may go below its value.
        keys: How many columns every table has.
        width: Of the terminal.
    """
    widths = [max(map(len, [*header[i].split(), *(row[i] for row in rows)])) for i in range(len(header))]
    if _width(widths) <= width:
        return [(header, rows)]
    rows = [[cell.replace(" [", "\n[") for cell in row] for row in rows]
    for i in range(keys, len(header)):
        widths[i] = max(
            len(part) for cell in [*header[i].split(), *(row[i] for row in rows)] for part in cell.split("\n")
        )
    shared, places = list(range(keys)), [list(range(keys))]
    for i in range(keys, len(header)):
        if len(places[-1]) > keys and _width([widths[j] for j in [*places[-1], i]]) > width:
            places.append([*shared])
        places[-1].append(i)
    return [([header[i] for i in at], [[row[i] for i in at] for row in rows]) for at in places]


def _width(widths: list[int]) -> int:
    return 1 + sum(width + _BETWEEN for width in widths)


def _show_origins(origins: Origins, terminal: Terminal) -> None:
    """Say who says the settings of a reproduction."""
    for line in lines(origins):
        terminal.say(f"settings of {line}")


def _tell_outcome(result: CompareResult, terminal: Terminal) -> None:
    """Say what failed, which requirements hold, what is left and what was written; an outcome other than 0 always."""
    for name, failure in result.failed.items():
        _complain(f"{name} failed: {failure.message}" + (f"; {failure.hint}" if failure.hint else ""))
    for verdict in result.verdicts:
        told = f"{verdict.text} ({verdict.reason})"
        terminal.say(f"met: {told}") if verdict.met else _complain(f"not met: {told}; --require asks for it")
    if result.signal_number:
        _complain(f"stopped, {result.missing} runs are left; the same command goes on")
    elif result.missing:
        _complain(f"{result.missing} runs are not there; the same command goes on")
    for file in result.files:
        terminal.say(f"written: {file}")


def _complain(text: str) -> None:
    print(f"sharpkit: {text}", file=sys.stderr)


def _title(result: CompareResult) -> str:
    config = result.config
    tested = f"; {_TESTS[config.test]} to the baseline{_CORRECTIONS[config.correct]}" if config.test != "none" else ""
    chosen = "; hyperparameters chosen on validation accuracy" if config.select == "val" else ""
    return f"mean ± standard deviation over seeds{tested}{chosen}"

"""A comparison as columns of text, CSV, Markdown, JSON lines and LaTeX."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Sequence

from sharpkit.commands.compare import CompareResult
from sharpkit.commands.compare_metrics import metric_of
from sharpkit.engine.documents import finite
from sharpkit.statistics.comparison import Row, Settings, p_text


def spread(mean: float, std: float, digits: int) -> str:
    """Return mean ± standard deviation, without it where there is one seed, and nothing where there is no value."""
    if math.isnan(mean):
        return ""
    return f"{mean:.{digits}f}" + ("" if math.isnan(std) else f" ± {std:.{digits}f}")


def columns(result: CompareResult) -> tuple[list[str], list[list[str]]]:
    """Return head and rows for people: means with their spreads, and the difference with its interval."""
    first = metric_of(result.metrics[0])
    settings = setting_names(result)
    corrected = result.config.correct != "none"
    header = [
        "optimizer",
        *settings,
        "n",
        first.title,
        f"difference [{100 * result.config.ci:g} % CI]",
        "p_adj" if corrected else "p",
        *(metric_of(name).title for name in result.metrics[1:]),
    ]
    rows: list[list[str]] = []
    for row in result.rows:
        told = dict(row.group.settings)
        rows.append(
            [
                row.group.label,
                *(told[name] for name in settings),
                str(row.n),
                *_cells(row, result.metrics[:1]),
                _interval(row),
                p_text(row.p_adjusted) + ("*" if row.significant else ""),
                *_cells(row, result.metrics[1:]),
            ]
        )
    return header, rows


def setting_names(result: CompareResult) -> list[str]:
    """Return the names of the options that vary."""
    return [name for name, _ in result.rows[0].group.settings] if result.rows else []


def _cells(row: Row, metrics: Sequence[str]) -> list[str]:
    return [
        spread(row.means.get(name, math.nan), row.stds.get(name, math.nan), metric_of(name).digits) for name in metrics
    ]


def _interval(row: Row) -> str:
    found = row.difference
    if found is None or math.isnan(found.mean):
        return "baseline" if row.baseline else ""
    ends = "" if math.isnan(found.low) else f" [{found.low:+.2f}, {found.high:+.2f}]"
    return f"{found.mean:+.2f}{ends}"


def records(result: CompareResult) -> list[dict[str, str]]:
    """Return every row as plain columns, numbers in full: for TSV, CSV and programs."""
    return [_record(row, result) for row in result.rows]


def _record(row: Row, result: CompareResult) -> dict[str, str]:
    found = row.difference
    record = {"opt": row.group.label, **dict(row.group.settings), "n": str(row.n)}
    for name in result.metrics:
        record[f"{name}_mean"], record[f"{name}_std"] = _full(row.means.get(name)), _full(row.stds.get(name))
    record |= {
        "diff": _full(found and found.mean),
        "ci_low": _full(found and found.low),
        "ci_high": _full(found and found.high),
        "p": _full(found and found.p),
        "p_adj": _full(row.p_adjusted),
        "d": _full(found and found.effect),
        "seeds_needed": "" if found is None or found.needed is None else str(found.needed),
        "says": result.sentence(row),
    }
    return record


def _full(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else repr(float(value))


def tsv(result: CompareResult) -> str:
    """Return tab-separated values with a head."""
    return _separated(result, "\t")


def as_csv(result: CompareResult) -> str:
    """Return comma-separated values with a head."""
    return _separated(result, ",")


def _separated(result: CompareResult, mark: str) -> str:
    rows, text = records(result), io.StringIO()
    writer = csv.DictWriter(text, rows[0], delimiter=mark, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def jsonl(result: CompareResult) -> str:
    """Return one JSON document a row."""
    return "".join(json.dumps(finite(row)) + "\n" for row in result.document()["rows"])


def markdown(result: CompareResult) -> str:
    """Return a Markdown table."""
    header, rows = columns(result)
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def latex(result: CompareResult) -> str:
    """Return a LaTeX table for booktabs: optimizers in rows, settings in columns, the best of each column bold, the
    second underlined.
    """
    settings = list(dict.fromkeys(row.group.settings for row in result.rows))
    labels = list(dict.fromkeys(row.group.label for row in result.rows))
    by_place = {(row.group.label, row.group.settings): row for row in result.rows}
    metric = result.metrics[0]
    best = {place: _order(by_place, labels, place, metric) for place in settings}
    heads = [
        _escaped(", ".join(f"{k} {v}" for k, v in place)) or _escaped(metric_of(metric).title) for place in settings
    ]
    lines = [
        f"% {_escaped(metric_of(metric).title)}: mean and standard deviation over seeds; needs booktabs",
        f"\\begin{{tabular}}{{l{'c' * len(settings)}}}",
        "\\toprule",
        " & ".join(["optimizer", *heads]) + " \\\\",
        "\\midrule",
    ]
    for label in labels:
        cells = [_latex_cell(by_place.get((label, place)), metric, best[place]) for place in settings]
        lines.append(" & ".join([_escaped(label), *cells]) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def _order(by_place: dict[tuple[str, Settings], Row], labels: list[str], place: Settings, metric: str) -> list[str]:
    """Return the labels of a column from the best down; less is better for losses and costs."""
    known = [label for label in labels if (label, place) in by_place]
    up = metric.endswith("acc") or metric_of(metric).unit in ("points", "")
    return sorted(known, key=lambda label: by_place[label, place].means.get(metric, math.nan), reverse=up)


def _latex_cell(row: Row | None, metric: str, order: list[str]) -> str:
    if row is None:
        return "--"
    digits, std = metric_of(metric).digits, row.stds.get(metric, math.nan)
    mean = f"{row.means[metric]:.{digits}f}"
    rank = order.index(row.group.label)
    mean = f"\\mathbf{{{mean}}}" if rank == 0 else f"\\underline{{{mean}}}" if rank == 1 else mean
    return f"${mean}$" if math.isnan(std) else f"${mean}_{{\\pm {std:.{digits}f}}}$"


def _escaped(text: str) -> str:
    for mark in ("&", "%", "$", "#", "_", "{", "}"):
        text = text.replace(mark, f"\\{mark}")
    return text


FORMATS: dict[str, Callable[[CompareResult], str]] = {
    "tsv": tsv,
    "csv": as_csv,
    "jsonl": jsonl,
    "md": markdown,
    "latex": latex,
}

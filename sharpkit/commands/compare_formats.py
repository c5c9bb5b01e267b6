"""A comparison as columns of text, CSV, Markdown, JSON lines and LaTeX."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Sequence

from sharpkit.commands import origins
from sharpkit.commands.compare_metrics import metric_of
from sharpkit.commands.compare_result import CompareResult
from sharpkit.engine.documents import finite, to_json
from sharpkit.statistics.comparison import Row, p_text


def spread(mean: float, std: float, digits: int) -> str:
    """Return mean ± standard deviation; the mean alone of one seed or of equal values, and nothing of none."""
    if math.isnan(mean):
        return ""
    return f"{mean:.{digits}f}" + (f" ± {std:.{digits}f}" if std > 0 else "")


def columns(result: CompareResult) -> tuple[list[str], list[list[str]]]:
    """Return head and rows for people: means with their spreads, and the difference with its interval."""
    first = metric_of(result.metrics[0])
    settings = setting_names(result)
    corrected = result.config.correct != "none"
    chosen = any(row.group.note for row in result.rows)
    header = [
        "optimizer",
        *(["chosen"] if chosen else []),
        *(name.replace("_", " ") for name in settings),
        "n",
        first.title,
        f"difference [{100 * result.config.ci:g} % CI]",
        "seeds" if result.config.test == "welch" else "pairs",
        "p_adj" if corrected else "p",
        *(metric_of(name).title for name in result.metrics[1:]),
        *(f"{metric_of(name).title}: paper" for name in _printed(result)),
    ]
    rows: list[list[str]] = []
    for row in result.rows:
        told = dict(row.group.settings)
        rows.append(
            [
                row.group.label,
                *([row.group.note] if chosen else []),
                *(told[name] for name in settings),
                of_planned(row),
                *_cells(row, result.metrics[:1]),
                _interval(row, first.digits),
                _pairs(row),
                p_text(row.p_adjusted) + ("*" if row.significant else ""),
                *_cells(row, result.metrics[1:]),
                *(_paper(row, name, result) for name in _printed(result)),
            ]
        )
    return header, rows


def of_planned(row: Row) -> str:
    """Return how many runs have a result, and of how many where some have none."""
    return f"{row.n} of {row.planned}" if row.group.lost else str(row.n)


def _pairs(row: Row) -> str:
    found = row.difference
    if found is None:
        return ""
    return str(found.n) if found.paired else f"{found.n}, {found.n_base}"


def setting_names(result: CompareResult) -> list[str]:
    """Return the names of the options that vary."""
    return [name for name, _ in result.rows[0].group.settings] if result.rows else []


def _cells(row: Row, metrics: Sequence[str]) -> list[str]:
    return [
        spread(row.means.get(name, math.nan), row.stds.get(name, math.nan), metric_of(name).digits) for name in metrics
    ]


def _printed(result: CompareResult) -> list[str]:
    """Return the metrics that a paper says something of."""
    return [name for name in result.metrics if any(name in said for said in result.printed.values())]


def _paper(row: Row, metric: str, result: CompareResult) -> str:
    """Return what a paper prints, and ours minus that."""
    entry = result.paper(row).get(metric)
    if entry is None:
        return ""
    digits = metric_of(metric).digits
    spread_text = "" if entry.spread is None else f" ± {entry.spread:.{digits}f}"
    ours = row.means.get(metric, math.nan) - entry.value
    return f"{entry.value:.{digits}f}{spread_text}" + ("" if math.isnan(ours) else f" (ours {ours:+.{digits}f})")


def _interval(row: Row, digits: int) -> str:
    found = row.difference
    if found is None or math.isnan(found.mean):
        return "baseline" if row.baseline else ""
    ends = "" if math.isnan(found.low) else f" [{found.low:+.{digits}f}, {found.high:+.{digits}f}]"
    return f"{found.mean:+.{digits}f}{ends}"


def records(result: CompareResult) -> list[dict[str, str]]:
    """Return every row as plain columns, numbers in full: for TSV, CSV and programs."""
    return [_record(row, result) for row in result.rows]


def _record(row: Row, result: CompareResult) -> dict[str, str]:
    found = row.difference
    record = {"opt": row.group.label, **dict(row.group.settings), "n": str(row.n), "planned": str(row.planned)}
    record |= {reason: str(count) for reason, count in row.group.counts().items()}
    if result.config.select == "val":
        record["chosen"] = row.group.note
    for name in result.metrics:
        record[f"{name}_mean"], record[f"{name}_std"] = _full(row.means.get(name)), _full(row.stds.get(name))
    for name in _printed(result):
        entry = result.paper(row).get(name)
        record[f"{name}_paper"] = _full(entry and entry.value)
        record[f"{name}_paper_spread"] = _full(entry and entry.spread)
    record |= {
        "diff": _full(found and found.mean),
        "ci_low": _full(found and found.low),
        "ci_high": _full(found and found.high),
        "pairs": "" if found is None else str(min(found.n, found.n_base)),
        "p": _full(found and found.p),
        "p_adj": _full(row.p_adjusted),
        "d": _full(found and found.effect),
        "detectable": _full(row.detectable),
        "says": result.sentence(row),
    }
    return record | (origins.columns(result.settings(row)) if result.origins else {})


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
    """Return a Markdown table, and below it the settings of a reproduction."""
    header, rows = columns(result)
    lines = [header, ["---"] * len(header), *rows]
    table = "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
    return table + origins.markdown(result.origins)


def latex(result: CompareResult) -> str:
    """Return a LaTeX table for booktabs: the best of each column bold, the second underlined, ties alike.

    A cell whose runs do not all have a result says how many do.

    Columns are the settings, with the first metric; where nothing varies they are the metrics.
    """
    rows = result.rows
    settings = list(dict.fromkeys(row.group.settings for row in rows))
    labels = list(dict.fromkeys(row.group.label for row in rows))
    metrics = result.metrics if settings == [()] else result.metrics[:1]
    columns = [_latex_column([r for r in rows if r.group.settings == s], m) for s in settings for m in metrics]
    heads = [", ".join(f"{k} {v}" for k, v in s) or metric_of(m).title for s in settings for m in metrics]
    lines = [
        *(f"% settings of {line}" for line in origins.lines(result.origins)),
        f"% {', '.join(metric_of(m).title for m in metrics)}: mean and standard deviation over seeds; needs booktabs",
        f"\\begin{{tabular}}{{l{'c' * len(columns)}}}",
        "\\toprule",
        " & ".join(["optimizer", *map(_escaped, heads)]) + " \\\\",
        "\\midrule",
        *(" & ".join([_escaped(label), *(c.get(label, "--") for c in columns)]) + " \\\\" for label in labels),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _latex_column(rows: Sequence[Row], metric: str) -> dict[str, str]:
    """Return the cells of a column by optimizer."""
    told = metric_of(metric)
    means = {row.group.label: f"{row.means.get(metric, math.nan):.{told.digits}f}" for row in rows}
    there = {label: mean for label, mean in means.items() if mean != "nan"}
    best = (
        sorted(set(map(float, there.values())), reverse=told.better > 0)[:2] if told.better and len(there) > 1 else []
    )
    cells: dict[str, str] = {}
    for row in rows:
        lost = f" ({of_planned(row)})" if row.group.lost else ""
        if (mean := there.get(row.group.label)) is None:
            cells[row.group.label] = f"--{lost}"
            continue
        rank = best.index(float(mean)) if float(mean) in best else 2
        marked = ("\\mathbf{%s}", "\\underline{%s}", "%s")[rank] % mean
        std = row.stds.get(metric, math.nan)
        spread = "" if math.isnan(std) else f" \\pm {std:.{told.digits}f}"
        cells[row.group.label] = f"${marked}{spread}${lost}"
    return cells


_LATEX = {**{mark: f"\\{mark}" for mark in "&%$#_{}"}, "\\": "\\textbackslash{}", "~": "\\~{}", "^": "\\^{}"}


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(mark, mark) for mark in text)


def as_json(result: CompareResult) -> str:
    """Return the JSON document of the command."""
    return to_json(result.document())


FORMATS: dict[str, Callable[[CompareResult], str]] = {
    "tsv": tsv,
    "csv": as_csv,
    "json": as_json,
    "jsonl": jsonl,
    "md": markdown,
    "latex": latex,
}

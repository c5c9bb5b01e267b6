"""Comparisons over seeds: every seed a point, the mean with its interval, and the metric against a hyperparameter."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from sharpkit.errors import UsageError
from sharpkit.figures.style import GREY, SMALL, colour, legend_above, line, marker, panels
from sharpkit.recipes.grammar import pieces
from sharpkit.statistics.comparison import Row, Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def seeds(rows: Sequence[Row], metric: str, title: str, level: float = 0.95) -> Figure:
    """Draw a line for every optimizer and a panel for every setting: seeds as dots, the mean with its interval.

    Args:
        rows: Of the table.
        metric: What is shown.
        title: Its axis label.
        level: Of the confidence interval of the mean, by Student's t.

    Raises:
        InputError: If matplotlib is not installed.
    """
    places = list(dict.fromkeys(row.group.settings for row in rows))
    labels = list(dict.fromkeys(row.group.label for row in rows))
    height = 0.8 + 0.32 * len(labels)
    across = min(len(places), 3)
    down = -(-len(places) // across)
    figure, axes = panels(down, across, width=max(5.0, 3.6 * across), height=height * down, sharey=True)
    flat: list[Any] = np.ravel(axes).tolist()
    for axis in flat[len(places) :]:
        axis.set_visible(False)
    for axis, place in zip(flat, places, strict=False):
        for row in (row for row in rows if row.group.settings == place):
            i = labels.index(row.group.label)
            values = np.array(list(row.group.values.get(metric, {}).values()))
            _tell_lost(axis, row, i)
            if not len(values):
                continue
            axis.plot(values, np.full(len(values), i) + _jitter(len(values)), "o", color=colour(i), alpha=0.35, ms=3.5)
            half = _half(values, level)
            axis.errorbar(values.mean(), i, xerr=None if math.isnan(half) else half, fmt="D", color=colour(i), ms=5,
                          capsize=3, lw=1.5)  # fmt: skip
            if row.baseline:
                axis.axvline(values.mean(), color=GREY, lw=0.8, ls=":")
        axis.set_yticks(range(len(labels)), labels)
        axis.set_ylim(len(labels) - 0.5, -0.5)
        axis.set_xlabel(title)
        axis.set_title(", ".join(f"{key.replace('_', ' ')} {value}" for key, value in place), fontsize=SMALL + 2)
    return figure


def _tell_lost(axis: Any, row: Row, place: int) -> None:
    """Write how many runs have a result where some have none, at the end of the line."""
    if not row.group.lost:
        return
    why = ", ".join(f"{count} {reason}" for reason, count in row.group.counts().items() if count)
    base = "baseline, " if row.baseline and not row.n else ""
    axis.annotate(f"{base}{row.n} of {row.planned} ({why})", (0.98, place - 0.3), xycoords=("axes fraction", "data"),
                  ha="right", va="center", fontsize=SMALL, color=GREY)  # fmt: skip


def _jitter(count: int) -> np.ndarray:
    return 0.22 * (np.arange(count) - (count - 1) / 2) / max(1, count)


def _half(values: np.ndarray, level: float) -> float:
    """Return half of the width of the mean's confidence interval, NaN for fewer than three values."""
    if len(values) < 3:
        return math.nan
    return float(stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))


def against(rows: Sequence[Row], key: str, metric: str, title: str) -> Figure:
    """Draw the metric against a hyperparameter or an option, a line for every other choice, with standard deviations.

    Two keys at a comma give a heat map, a panel for every recipe.

    Args:
        rows: Of the table.
        key: A parameter of the recipes, as `rho`, or an option that varies, as `label_noise`.
        metric: What is shown.
        title: Its label.

    Raises:
        UsageError: As `checked_keys` says.
        InputError: If matplotlib is not installed.
    """
    keys = checked_keys(key, [(row.group.label, row.group.settings) for row in rows])
    places = [_place(row, keys) for row in rows]
    kept = [(place, row) for place, row in zip(places, rows, strict=True) if None not in place[0]]
    lines: dict[str, list[tuple[tuple[str, ...], Row]]] = {}
    for (values, rest), row in kept:
        lines.setdefault(rest, []).append((values, row))  # pyright: ignore[reportArgumentType]
    flat = [(rest, row) for (values, rest), row in zip(places, rows, strict=True) if None in values]
    return _heat(lines, keys, metric, title) if len(keys) == 2 else _curves(lines, flat, keys[0], metric, title)


def checked_keys(text: str, places: Iterable[tuple[str, Settings]]) -> list[str]:
    """Return the one or two keys that a figure is drawn against.

    Args:
        text: As it was given, at a comma.
        places: Recipes and settings of the rows.

    Raises:
        UsageError: If they are more, or no row has them.
    """
    keys = [part.strip().replace("-", "_") for part in text.split(",")]
    if len(set(keys)) != len(keys) or len(keys) > 2:
        raise UsageError(f"plot-vs is {text!r}, allowed are one key or two", "write for example --plot-vs rho")
    known = [_all_keys(label, settings) for label, settings in places]
    if not any(all(key in of for key in keys) for of in known):
        every = sorted({key for of in known for key in of})
        there = f"allowed are {', '.join(every)}" if every else "nothing varies that has a name"
        raise UsageError(f"plot-vs is {text!r}, which no row has", there)
    return keys


def _all_keys(label: str, settings: Settings) -> dict[str, str]:
    """Return every key of a recipe and its settings with its value."""
    given = [item.partition("=") for item in pieces(label)[1:]]
    return {**{key.strip(): value for key, _, value in given}, **dict(settings)}


def _place(row: Row, keys: list[str]) -> tuple[tuple[str | None, ...], str]:
    """Return the values of the keys, and what a row is besides them."""
    known = _all_keys(row.group.label, row.group.settings)
    head, *rest = pieces(row.group.label)
    others = [item for item in rest if item.partition("=")[0].strip() not in keys]
    settings = [f"{name} {value}" for name, value in row.group.settings if name not in keys]
    return tuple(known.get(key) for key in keys), ", ".join([":".join([head, *others]), *settings])


def _curves(
    lines: dict[str, list[tuple[tuple[str, ...], Row]]], flat: list[tuple[str, Row]], key: str, metric: str, title: str
) -> Figure:
    figure, axes = panels(1, 1, width=5.0, height=3.4)
    axis = axes[0, 0]
    texts = list(dict.fromkeys(values[0] for members in lines.values() for values, _ in members))
    numbers = _numbers(texts)
    for i, (name, members) in enumerate(lines.items()):
        points = sorted(((numbers[values[0]], row) for values, row in members), key=lambda point: point[0])
        x = [place for place, _ in points]
        y = [row.means.get(metric, math.nan) for _, row in points]
        error = [0.0 if math.isnan(row.stds.get(metric, math.nan)) else row.stds[metric] for _, row in points]
        nothing = [f"{values[0]}: 0 of {row.planned}" for values, row in members if not row.n and row.group.lost]
        told = f"{name} ({', '.join(nothing)})" if nothing else name
        axis.errorbar(x, y, yerr=error, fmt=marker(i), ls=line(i), color=colour(i), label=told, capsize=2, ms=4, lw=1.2)
        for place, row in points:
            if row.group.lost and row.n:
                axis.annotate(f"{row.n} of {row.planned}", (place, row.means[metric]), (0, 6), ha="center",
                              textcoords="offset points", fontsize=SMALL, color=colour(i))  # fmt: skip
    for i, (name, row) in enumerate(flat, len(lines)):
        told = f"{name} ({row.n} of {row.planned})" if row.group.lost else name
        axis.axhline(row.means.get(metric, math.nan), color=colour(i), ls=line(i), lw=1, label=told)
    if numbers and list(numbers.values()) == [float(i) for i in range(len(texts))] and not _numeric(texts):
        axis.set_xticks(range(len(texts)), texts)
    axis.set_xlabel(key.replace("_", " "))
    axis.set_ylabel(f"{title}, mean ± standard deviation")
    legend_above(figure, axis, 2)
    return figure


def _numeric(texts: Sequence[str]) -> bool:
    try:
        return bool([float(text) for text in texts])
    except ValueError:
        return False


def _numbers(texts: Sequence[str]) -> dict[str, float]:
    """Return where values stand on an axis: as numbers if they are, else one after the other."""
    if _numeric(texts):
        return {text: float(text) for text in texts}
    return {text: float(i) for i, text in enumerate(texts)}


def _heat(lines: dict[str, list[tuple[tuple[str, ...], Row]]], keys: list[str], metric: str, title: str) -> Figure:
    figure, axes = panels(1, len(lines), width=max(4.6, 4.0 * len(lines)), height=3.6)
    values = [row.means.get(metric, math.nan) for members in lines.values() for _, row in members]
    known = [value for value in values if not math.isnan(value)] or [0.0]
    low, high = min(known), max(known)
    image: Any = None
    for axis, (name, members) in zip(axes[0], lines.items(), strict=True):
        ends = [_sorted({place[j] for place, _ in members}) for j in (0, 1)]
        table = np.full((len(ends[1]), len(ends[0])), math.nan)
        counts: dict[tuple[int, ...], str] = {}
        for (x, y), row in members:
            place = ends[1].index(y), ends[0].index(x)
            table[place] = row.means.get(metric, math.nan)
            counts[place] = f"{row.n} of {row.planned}" if row.group.lost else ""
        image = axis.imshow(table, origin="lower", cmap="cividis", vmin=low, vmax=high, aspect="auto")
        for (i, j), value in np.ndenumerate(table):
            text = "\n".join(
                part for part in ("" if math.isnan(value) else f"{value:.1f}", counts.get((i, j), "")) if part
            )
            dark = value < (low + high) / 2
            axis.text(j, i, text, ha="center", va="center", fontsize=SMALL, color="w" if dark else "k")
        axis.set_xticks(range(len(ends[0])), ends[0])
        axis.set_yticks(range(len(ends[1])), ends[1])
        axis.set_xlabel(keys[0])
        axis.set_ylabel(keys[1])
        axis.set_title(name, fontsize=SMALL + 2)
    figure.colorbar(image, ax=axes, label=title)
    return figure


def _sorted(texts: set[str]) -> list[str]:
    return sorted(texts, key=float) if _numeric(list(texts)) else sorted(texts)

"""The settings of a reproduction, each marked as the paper's, its authors' code's or ours, in every format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sharpkit.engine.cells import Cell, shown
from sharpkit.engine.provenance import Setting
from sharpkit.engine.published import ORIGINS, Origin
from sharpkit.statistics.comparison import Settings

Origins = Mapping[tuple[str, Settings], Sequence[Setting]]
"""The settings of every row, by recipe and setting."""

COLUMNS: dict[Origin, str] = {"paper": "from_paper", "authors' code": "from_code", "ours": "from_ours"}
"""The column of every origin in TSV and CSV."""


def as_run(origins: Origins, cells: Iterable[Cell]) -> Origins:
    """Return the settings with the values that are run; what --scale or --budget changed is ours."""
    configs = {(cell.label, cell.settings): cell.config for cell in reversed(list(cells))}
    found: dict[tuple[str, Settings], Sequence[Setting]] = {}
    for key, settings in origins.items():
        if key in configs:
            kept = [_as_run(one, getattr(configs[key], one.name)) if one.option else one for one in settings]
            limit = configs[key].limit
            if limit is not None and all(one.name != "limit" for one in settings):
                kept.append(Setting("limit", limit, "ours", "ours: --scale"))
            found[key] = kept
    return found


def _as_run(setting: Setting, value: Any) -> Setting:
    if value is None or value == setting.value:
        return setting
    return replace(setting, value=value, origin="ours", source="ours: --scale or --budget")


def documents(settings: Iterable[Setting]) -> list[dict[str, Any]]:
    """Return settings for JSON: name, value, origin and source."""
    return [{"name": s.name, "value": s.value, "origin": s.origin, "source": s.source} for s in settings]


def columns(settings: Iterable[Setting]) -> dict[str, str]:
    """Return a column of `name=value` for every origin: for TSV and CSV."""
    settings = list(settings)
    return {
        column: " ".join(f"{s.name}={_text(s.value)}" for s in settings if s.origin == origin)
        for origin, column in COLUMNS.items()
    }


def lines(origins: Origins) -> list[str]:
    """Return one line for each recipe: its settings by origin; values that differ between rows at a bar."""
    return [
        f"{label}: " + "; ".join(f"{origin}: {text}" for origin, text in _by_origin(rows).items())
        for label, rows in _by_label(origins).items()
    ]


def markdown(origins: Origins) -> str:
    """Return a Markdown list, empty without settings."""
    if not origins:
        return ""
    items = [
        f"- `{label}`: " + "; ".join(f"**{origin}**: {text}" for origin, text in _by_origin(rows).items()) + "\n"
        for label, rows in _by_label(origins).items()
    ]
    return "\nSettings, by who says them:\n\n" + "".join(items)


def radii(origins: Origins) -> list[str]:
    """Return a note where recipes of one table have different radii that the paper and its authors' code do not say."""
    found: dict[str, list[str]] = {}
    invented = False
    for label, rows in _by_label(origins).items():
        of_label = [s for settings in rows for s in settings if s.name == "rho" and not s.option]
        for setting in of_label:
            found.setdefault(str(setting.value), []).append(label)
            invented |= setting.origin == "ours"
    if len(found) < 2 or not invented:
        return []
    told = ", ".join(f"{rho} for {' and '.join(dict.fromkeys(labels))}" for rho, labels in found.items())
    return [f"radii differ between recipes, and not all by the paper: {told}"]


def _by_label(origins: Origins) -> dict[str, list[Sequence[Setting]]]:
    found: dict[str, list[Sequence[Setting]]] = {}
    for (label, _), settings in origins.items():
        found.setdefault(label, []).append(settings)
    return found


def _by_origin(rows: Sequence[Sequence[Setting]]) -> dict[str, str]:
    """Return the settings of one recipe's rows by origin, as text."""
    values: dict[str, dict[str, list[str]]] = {origin: {} for origin in ORIGINS}
    for setting in (one for settings in rows for one in settings):
        of_name = values[setting.origin].setdefault(setting.name, [])
        if (text := _text(setting.value)) not in of_name:
            of_name.append(text)
    return {
        origin: ", ".join(f"{name}={'|'.join(found)}" for name, found in by_name.items())
        for origin, by_name in values.items()
        if by_name
    }


def _text(value: Any) -> str:
    return "on" if value is True else "off" if value is False else shown(value)

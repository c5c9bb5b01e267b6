"""Write the tables that the code itself knows: recipes, models, data, presets and the options of `sharpkit train`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

import sharpkit
from sharpkit.cli.options import PANELS, flag
from sharpkit.commands import (
    compare_config,
    graddiff_config,
    gradnorm_qq_config,
    hessian_config,
    landscape_config,
    plot_config,
    sharpness_config,
)
from sharpkit.commands.compare_metrics import METRICS as COMPARED
from sharpkit.data import DATASETS
from sharpkit.data.source import Access, Source, Stored
from sharpkit.engine.config import TrainConfig, options
from sharpkit.engine.papers import PRESETS
from sharpkit.engine.published import ORIGINS, Values
from sharpkit.engine.published_tables import METRICS, PAPERS, TABLES, Table
from sharpkit.models import MODELS
from sharpkit.models import describe as of_model
from sharpkit.recipes.describe import describe

COMMANDS: dict[str, tuple[type, dict[str, tuple[str, ...]]]] = {
    "compare": (compare_config.CompareConfig, compare_config.PANELS),
    "hessian": (hessian_config.HessianConfig, hessian_config.PANELS),
    "landscape": (landscape_config.LandscapeConfig, landscape_config.PANELS),
    "sharpness": (sharpness_config.SharpnessConfig, sharpness_config.PANELS),
    "graddiff": (graddiff_config.GradDiffConfig, graddiff_config.PANELS),
    "gradnorm_qq": (gradnorm_qq_config.GradNormConfig, gradnorm_qq_config.PANELS),
    "plot": (plot_config.PlotConfig, plot_config.PANELS),
}
"""The commands whose options are written beside their page."""


def write_all(folder: Path) -> None:
    """Write every table as a Markdown file to be included."""
    folder.mkdir(exist_ok=True)
    (folder / "recipes.md").write_text(recipes(), encoding="utf-8")
    (folder / "models.md").write_text(models(), encoding="utf-8")
    (folder / "data.md").write_text(datasets(), encoding="utf-8")
    (folder / "options.md").write_text(option_tables(TrainConfig, PANELS), encoding="utf-8")
    for name, (of, panels) in COMMANDS.items():
        (folder / f"{name}_options.md").write_text(option_tables(of, panels), encoding="utf-8")
    (folder / "compare_metrics.md").write_text(compared(), encoding="utf-8")
    (folder / "presets.md").write_text(presets(), encoding="utf-8")
    (folder / "published_tables.md").write_text(published(), encoding="utf-8")
    (folder / "published_metrics.md").write_text(metrics(), encoding="utf-8")


def compared() -> str:
    """Return a row for every metric of a comparison."""
    rows = [(f"`{name}`", metric.title, metric.unit or "none") for name, metric in COMPARED.items()]
    return table(("metric", "what it is", "unit of a difference"), rows)


def recipes() -> str:
    """Return a row for every recipe: its page, what it does, which slots it states and its cost."""
    rows: list[Sequence[str]] = []
    for name, recipe in sharpkit.RECIPES.items():
        said = describe(recipe)
        slots = ", ".join(f"`{slot}`" for slot in said.slots)
        rows.append((f"[`{name}`]({name}.md)", said.what, slots, said.cost))
    return table(("recipe", "what it does", "slots it states", "cost"), rows)


def models() -> str:
    """Return a row for every model: what it is, its parameters and its source."""
    told = {name: of_model.describe(name) for name in MODELS}
    rows = [(f"`{name}`", said.what, f"{said.parameters:,}", said.source) for name, said in told.items()]
    return table(("model", "what it is", "parameters", "source"), rows)


def datasets() -> str:
    """Return a row for every data set: what it is, its size, and what it needs."""
    rows = [
        (
            f"`{name}`",
            source.what,
            f"{source.size.training:,}",
            f"{source.size.test:,}",
            source.size.form,
            str(source.size.classes),
            _needs(source),
        )
        for name, source in DATASETS.items()
    ]
    return table(("data", "what it is", "training", "test", "shape", "classes", "from"), rows)


def _needs(source: Source) -> str:
    if not isinstance(source, Stored):
        return source.where.text(Access().folder)
    return "`--download`, or files" if source.downloads else "files"


def option_tables(of: type, panels: dict[str, tuple[str, ...]]) -> str:
    """Return a table of options for every panel of a command's help."""
    declared = options(of)
    parts: list[str] = []
    for panel, names in panels.items():
        rows = [
            (f"`{flag(name)}`", f"`{declared[name].metadata['shown'] or declared[name].default}`",
             declared[name].metadata["help"])
            for name in names
        ]  # fmt: skip
        parts.append(f"**{panel}**\n\n" + table(("option", "default", "what it is"), rows))
    return "\n".join(parts)


def presets() -> str:
    """Return a table for every paper: its presets, what holds for all recipes, and what for one."""
    parts: list[str] = []
    for (cited, title), group in groupby(PRESETS.values(), lambda preset: (preset.cited, preset.title)):
        rows = [
            (
                f"`{preset.name}`",
                _settings({name: value for name, value in preset.options.items() if name not in ("data", "model")}),
                "<br>".join(
                    f"`{name}` {_settings({**method.parameters, **method.options})}".strip()
                    for name, method in preset.methods.items()
                ),
            )
            for preset in group
        ]
        parts.append(f"**{cited}**, {title}\n\n" + table(("preset", "options", "recipes"), rows))
    return "\n".join(parts)


def _settings(values: Values) -> str:
    """Return values by who says them."""
    parts: list[str] = []
    for origin in ORIGINS:
        said = [f"{name.replace('_', '-')} {value.value}" for name, value in values.items() if value.origin == origin]
        parts += [f"{origin}: {', '.join(said)}"] if said else []
    return "; ".join(parts)


def published() -> str:
    """Return for every paper a table of its tables, and what is to be known about each."""
    parts: list[str] = []
    for paper in PAPERS:
        own = [one for name, one in TABLES.items() if name.partition("/")[0] == paper]
        rows = [
            (
                f"`{one.name}`",
                one.caption,
                str(len(one.entries) + len(one.averages)),
                str(one.seeds or "not said"),
                f"`{one.baseline}`" if one.baseline else "pairs",
                _named(one, "data"),
                _named(one, "model"),
            )
            for one in own
        ]
        header = ("table", "what it shows", "numbers", "runs", "compared with", "data", "models")
        cited = own[0].source.partition("),")[0]
        shared = [remark for remark in own[0].remarks if all(remark in one.remarks for one in own)]
        remarks = "".join(f"- `{one.name}`: {said}\n" for one in own if (said := _remarks(one, without=shared)))
        parts.append(f"## {cited})\n\n{' '.join(shared)}\n\n{table(header, rows)}\n{remarks}")
    return "\n".join(parts)


def _named(published_table: Table, option: str) -> str:
    """Return the values that an option has in a table."""
    values = [published_table.given(entry)[option] for entry in published_table.entries]
    return ", ".join(f"`{value}`" for value in dict.fromkeys(values))


def _remarks(published_table: Table, without: list[str]) -> str:
    """Return what is to be known about a table, and what is odd about single numbers of it."""
    printed = [*published_table.entries, *(average.entry for average in published_table.averages)]
    notes = [f"`{entry.opt}`, {entry.printed}: {entry.note}." for entry in printed if entry.note]
    return " ".join([*(remark for remark in published_table.remarks if remark not in without), *notes])


def metrics() -> str:
    """Return a row for every metric of the published tables."""
    return table(("metric", "what it is"), [(f"`{name}`", what) for name, what in METRICS.items()])


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)

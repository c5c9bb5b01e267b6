"""Who says each setting of a reproduced number: the paper, its authors' code, or this package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sharpkit.engine.bases import default_lr
from sharpkit.engine.config import TrainConfig, with_radius
from sharpkit.engine.presets import Taken, apply, configured
from sharpkit.engine.published import Origin, Value
from sharpkit.engine.published_tables import Entry, Table
from sharpkit.recipes.grammar import parse, pieces

OPTIONS = (
    "data", "label_noise", "noise_kind", "val_frac", "augment", "limit", "model", "init", "epochs", "batch_size",
    "base", "lr", "momentum", "nesterov", "wd", "wd_in_loss", "sched", "warmup_epochs", "smoothing", "smoothing_over",
    "clip", "rho_sched", "bn_stats", "rng", "amp", "save_every",
)  # fmt: skip
"""Options of a run that decide its numbers."""

_TOLD_WITH = {"noise_kind": "label_noise", "smoothing_over": "smoothing", "wd_in_loss": "wd"}
"""Options that mean nothing where another one is 0."""


@dataclass(frozen=True)
class Setting:
    """One setting of a run, and who says it.

    Args:
        name: An option of the run, or a parameter of its recipe.
        value: Its value.
        origin: Who says it.
        source: Authors, year and place, or the reason for a value of ours.
        option: Whether it is an option of the run.
    """

    name: str
    value: Any
    origin: Origin
    source: str
    option: bool = True


def settings_of(table: Table, entry: Entry) -> tuple[Setting, ...]:
    """Return every setting that decides the number of an entry: parameters of the recipe, then options of the run."""
    given = table.given(entry)
    config = configured(given)
    preset = apply({name: given[name] for name in ("opt", "preset") if name in given}).values
    return (*_parameters(table, entry, config, preset), *_options(table, given, config, preset))


def _parameters(table: Table, entry: Entry, config: TrainConfig, preset: Taken) -> list[Setting]:
    written = dict(_pair(item) for item in pieces(entry.opt)[1:])
    rule = parse(with_radius(config.opt, config.rho))
    found: list[Setting] = []
    for name, value in (_pair(item) for item in pieces(rule.text)[1:]):
        bare = name.rpartition(".")[2]
        taken = (preset.parameters[key] for key in (name, *_qualified(rule.name, bare)) if key in preset.parameters)
        said = next((one for one in taken if str(one.value) == value), None)
        if name in written:
            said = _of_table(table, name)
        found.append(_setting(name, _typed(value), said or _default("the recipe's"), option=False))
    return found


def _options(table: Table, given: dict[str, Any], config: TrainConfig, preset: Taken) -> list[Setting]:
    found: list[Setting] = []
    for name in OPTIONS:
        value = getattr(config, name)
        if name == "lr" and value is None:
            value = default_lr(config.base)
        if value is None or not _matters(name, config):
            continue
        said = preset.options.get(name)
        if name in table.ours or (name in given and (said is None or said.value != value)):
            said = _of_table(table, name)
        found.append(_setting(name, value, said or _default("the option's")))
    return found


def _matters(name: str, config: TrainConfig) -> bool:
    if name in ("momentum", "nesterov") and config.base in ("adam", "adamw"):
        return False
    return name not in _TOLD_WITH or bool(getattr(config, _TOLD_WITH[name]))


def _of_table(table: Table, name: str) -> Value:
    """Return who says what a table needs: the paper, unless the table says that it is ours."""
    if name in table.ours:
        return Value(None, f"ours: {table.ours[name]}", "ours")
    return Value(None, table.source, "paper")


def _default(whose: str) -> Value:
    return Value(None, f"ours: {whose} default", "ours")


def _setting(name: str, value: Any, said: Value, *, option: bool = True) -> Setting:
    return Setting(name, value, said.origin, said.source, option)


def _typed(text: str) -> int | float | str:
    """Return a parameter of a recipe string as the number that it is, or as text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def _pair(item: str) -> tuple[str, str]:
    key, _, value = item.partition("=")
    return key.strip(), value.strip()


def _qualified(recipe: str, name: str) -> list[str]:
    """Return a parameter with the name of each recipe of a union before it."""
    return [f"{one}.{name}" for one in recipe.split("+")]

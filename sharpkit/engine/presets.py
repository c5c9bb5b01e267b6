"""Presets under a user's options: flag over environment over file over preset over default.

This module does not import torch, so that a wrong name is told at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sharpkit.engine.config import TrainConfig
from sharpkit.engine.papers import PRESETS
from sharpkit.engine.published import Method, Preset, Value, Values
from sharpkit.errors import UsageError

_OF_BASE = ("lr", "wd", "wd_in_loss", "momentum", "nesterov")
"""What a paper chose for its base optimizer; for another one it means nothing."""


_REFINES = {"smoothing_over": "smoothing"}
"""Options that say how another one is meant; with that one at 0 they mean nothing."""


@dataclass(frozen=True)
class Taken:
    """Values that were taken from a preset.

    Args:
        options: By option of the run.
        parameters: By parameter of the recipe, as it is written in --opt.
    """

    options: Values = field(default_factory=dict[str, Value])
    parameters: Values = field(default_factory=dict[str, Value])


@dataclass(frozen=True)
class Applied:
    """Options with those of their preset under them.

    Args:
        given: What TrainConfig takes.
        note: One line for people; empty without a preset.
        sources: For every option that the preset gave something to, where that comes from.
        values: The preset's values that were taken, by option, and by parameter of the recipe.
    """

    given: dict[str, Any]
    note: str = ""
    sources: Mapping[str, str] = field(default_factory=dict[str, str])
    values: Taken = field(default_factory=lambda: Taken())


def find(name: str) -> Preset:
    """Return a preset by name.

    Raises:
        UsageError: If there is none of that name.
    """
    if name in PRESETS:
        return PRESETS[name]
    close = difflib.get_close_matches(name, PRESETS, n=1)
    guess = f"did you mean {close[0]!r}? " if close else ""
    raise UsageError(f"unknown preset {name!r}", f"{guess}see sharpkit ls presets")


def apply(given: Mapping[str, Any]) -> Applied:
    """Return a user's options, and under them the values of the preset that they name.

    A recipe's parameters are added to `opt` where the user gave no value for them, neither in `opt` nor with `rho`.

    Args:
        given: The user's options; `preset` may be among them.

    Raises:
        UsageError: If the preset is unknown.
    """
    if given.get("preset") is None:
        return Applied(dict(given))
    preset = find(given["preset"])
    opt = given["opt"] if "opt" in given else _own(preset)
    recipes = [name.strip() for name in opt.split(":")[0].split("+")]
    methods = {name: preset.methods[name] for name in recipes if name in preset.methods}
    options = dict(preset.options)
    for method in methods.values():
        options |= method.options
    foreign = given.get("base", options["base"].value) != options["base"].value
    if foreign:
        options = {name: value for name, value in options.items() if name not in _OF_BASE}
    taken = {
        name: value
        for name, value in options.items()
        if name not in given and given.get(_REFINES.get(name, ""), 1) != 0
    }
    parameters = {
        key if len(recipes) == 1 else f"{name}.{key}": value
        for name, method in methods.items()
        for key, value in method.parameters.items()
        if not _chosen(name, key, opt, given)
    }
    full = ":".join([opt, *(f"{key}={value.value}" for key, value in parameters.items())])
    values = {**given, "opt": full, **{name: value.value for name, value in taken.items()}}
    sources = {name: value.source for name, value in taken.items()}
    if parameters:
        sources["opt"] = "; ".join(f"{key}: {value.source}" for key, value in parameters.items())
    note = _note(preset, given, values, methods, foreign, {**taken, **parameters})
    return Applied(values, note, sources, Taken(taken, parameters))


def configured(given: Mapping[str, Any]) -> TrainConfig:
    """Return the configuration of a user's options, with their preset applied.

    Raises:
        UsageError: If the preset is unknown, or a value is outside its range.
    """
    return TrainConfig(**apply(given).given)


def _own(preset: Preset) -> str:
    """Return the paper's own method, or the first of its methods that this version has."""
    from sharpkit.recipes import RECIPES  # here, because it needs torch

    return next(name for name in preset.methods if name in RECIPES)


def _chosen(recipe: str, key: str, opt: str, given: Mapping[str, Any]) -> bool:
    """Whether the user gave a parameter of a recipe a value."""
    written = {item.partition("=")[0].strip() for item in opt.split(":")[1:]}
    return not written.isdisjoint((key, f"{recipe}.{key}")) or (key == "rho" and given.get("rho") is not None)


def _note(
    preset: Preset,
    given: Mapping[str, Any],
    values: Mapping[str, Any],
    methods: Mapping[str, Method],
    foreign: bool,
    taken_values: Values,
) -> str:
    """Return in one line what was taken, what is nobody's but ours, what was not taken, and where the sources are."""
    own = next(iter(preset.methods))
    taken = " ".join(f"{name}={value}" for name, value in values.items() if name not in given or name == "opt")
    kept = [name for name in given if name in preset.options]
    said = [f"preset {preset.name}, {preset.cited}: {taken}"]
    if invented := [name for name, value in taken_values.items() if value.origin == "ours"]:
        said.append(f"said by neither the paper nor its code: {', '.join(invented)}")
    if kept:
        said.append(f"yours: {', '.join(kept)}")
    if foreign:
        said.append(f"its {', '.join(n for n in _OF_BASE if n in preset.options)} are for another base and left out")
    if not methods:
        said.append(f"it says nothing on this optimizer, only on {', '.join(preset.methods)}")
    elif "opt" not in given and own not in methods:
        said.append(f"{own} is not in this version")
    return "; ".join([*said, "sources: sharpkit ls presets"])

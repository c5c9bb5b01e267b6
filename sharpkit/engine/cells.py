"""The runs of a comparison: recipes x settings x seeds, each with a configuration and a folder's name."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, Union, get_args, get_origin

from sharpkit.engine.config import TrainConfig, from_mapping, kinds, to_mapping
from sharpkit.engine.presets import configured
from sharpkit.errors import UsageError
from sharpkit.recipes.grid import expanded
from sharpkit.statistics.comparison import Settings

_MACHINE = ("device", "threads", "workers", "data_dir", "download")
"""Options that do not make a run another one."""


@dataclass(frozen=True)
class Cell:
    """One run of a comparison.

    Args:
        label: The recipe, as it was asked for.
        settings: The options that vary, beside the recipe.
        config: What is run; its seed is the cell's.
    """

    label: str
    settings: Settings
    config: TrainConfig

    @property
    def seed(self) -> int:
        """The seed."""
        return self.config.seed

    @property
    def name(self) -> str:
        """The folder: what a person tells it by, and a digest of the whole configuration, so that no other has it."""
        told = "-".join([self.label, *(f"{key}={value}" for key, value in self.settings)])
        known = {key: value for key, value in to_mapping(self.config).items() if key not in _MACHINE}
        digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:8]
        return f"{re.sub(r'[^A-Za-z0-9.=,+_-]+', '_', told)[:120]}-s{self.seed}-{digest}"


def seeds_of(text: str) -> list[int]:
    """Return the seeds of `5` (0 to 4), `1,4,7` or `2-6`.

    Raises:
        UsageError: If it is none of these.
    """
    allowed = "allowed are a number of seeds, a list as 0,3,7, and a range as 2-6"
    try:
        if "," in text:
            seeds = [int(part) for part in text.split(",") if part.strip()]
        elif (ends := re.fullmatch(r"\s*(\d+)\s*-\s*(\d+)\s*", text)) is not None:
            seeds = list(range(int(ends[1]), int(ends[2]) + 1))
        else:
            seeds = list(range(int(text)))
    except ValueError:
        raise UsageError(f"seeds is {text!r}, {allowed}", "use --seeds 5") from None
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise UsageError(f"seeds is {text!r}, which is empty, negative or has one twice; {allowed}", "use --seeds 5")
    return seeds


def grid(opts: Sequence[str], given: Mapping[str, Any], seeds: Iterable[int]) -> list[Cell]:
    """Return the cells of a comparison, recipe by recipe within each setting, all seeds of one together.

    Args:
        opts: Recipe strings, with lists of values.
        given: Options of a training run; text is a list of values at commas.
        seeds: One run each.

    Raises:
        UsageError: If a value is not allowed, or two cells are the same.
    """
    recipes = [recipe for text in opts for recipe in expanded(text)]
    lists = {name: listed(name, value) for name, value in given.items()}
    several = [name for name, values in lists.items() if len(values) > 1]
    cells: list[Cell] = []
    seeds = list(seeds)
    for chosen in product(*lists.values()):
        options: dict[str, Any] = dict(zip(lists, chosen, strict=True))
        settings = tuple((name, shown(options[name])) for name in several)
        for recipe in recipes:
            for seed in seeds:
                config = configured({**options, "opt": recipe, "seed": seed})
                cells.append(Cell(recipe, settings, config))
    for name, count in Counter(cell.name for cell in cells).items():
        if count > 1:
            raise UsageError(f"{name.rpartition('-s')[0]} is there twice", "give each recipe and each value once")
    return cells


def listed(name: str, value: Any) -> list[Any]:
    """Return the values of an option: those of a text with commas, each in the option's type, or the one given."""
    if not isinstance(value, str):
        return [value]
    texts = [part.strip() for part in value.split(",")] if "," in value else [value]
    values = [from_mapping({name: typed(name, text)}, "the command line")[name] for text in texts]
    if len(set(map(str, values))) < len(values):
        raise UsageError(f"--{name.replace('_', '-')} {value} has a value twice", "give each once")
    return values


def typed(name: str, text: str) -> Any:
    """Return a text as the number that an option takes, or as it is.

    Raises:
        UsageError: If the option takes a number and the text is none.
    """
    kind = kinds(TrainConfig)[name]
    parts = get_args(kind) if get_origin(kind) not in (None, Literal) else (kind,)
    if get_origin(kind) is Union or str in parts or any(get_origin(part) is Literal for part in parts):
        return text
    number = int if int in parts else float if float in parts else None
    if number is None:
        return text
    try:
        return number(text)
    except ValueError:
        wanted = "a whole number" if number is int else "a number"
        raise UsageError(f"--{name.replace('_', '-')} is {text!r}, allowed is {wanted}", "correct it") from None


def shown(value: Any) -> str:
    """Return a value as it is written in a table."""
    return f"{value:g}" if isinstance(value, float) else str(value)

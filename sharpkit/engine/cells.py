"""The runs of a comparison: recipes x settings x seeds, each with a configuration and a folder's name."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, Literal, cast, get_args, get_origin

from sharpkit.engine.config import TrainConfig, from_mapping, kinds, to_mapping
from sharpkit.engine.external import is_file_reference
from sharpkit.engine.presets import configured
from sharpkit.errors import UsageError
from sharpkit.recipes.grid import expanded
from sharpkit.statistics.comparison import Settings

_NOT_THE_RUN = ("device", "threads", "workers", "data_dir", "download", "preset")
"""Options that do not make a run another one; a preset's values are in the others."""

_ADDED_LATER = ("smoothing_over",)
"""Options that are younger than digests of runs: at their default they leave a digest as it was before them."""

_NO_LIST = ("probe", "probe_samples", "data_dir", "device", "threads", "workers", "init")
"""Options whose text may have commas of its own, or of which a comparison needs one value."""

_MOST_SEEDS = 10_000
_MOST_CELLS = 20_000


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
        known = {**identity(self.config), "files": _files(self.config)}
        digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:8]
        return f"{re.sub(r'[^A-Za-z0-9.=,+_-]+', '_', told)[:120]}-s{self.seed}-{digest}"


def identity(config: TrainConfig) -> dict[str, Any]:
    """Return the options that make a run what it is."""
    default = TrainConfig()
    return {
        key: value
        for key, value in to_mapping(config).items()
        if key not in _NOT_THE_RUN and not (key in _ADDED_LATER and value == getattr(default, key))
    }


def _files(config: TrainConfig) -> dict[str, str]:
    """Return digests of the user's own files: another content is another run."""
    named = {"data": config.data, "model": config.model}
    paths = {key: Path(text.rpartition(":")[0]) for key, text in named.items() if is_file_reference(text)}
    if config.init is not None:
        given = Path(config.init)
        paths["init"] = given / "ckpt.pt" if given.is_dir() else given
    return {key: _file_digest(path, path.stat().st_mtime_ns) for key, path in paths.items() if path.is_file()}


@cache
def _file_digest(path: Path, _changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
            seeds = list(range(int(ends[1]), int(ends[2]) + 1)[: _MOST_SEEDS + 1])
        else:
            seeds = list(range(int(text))[: _MOST_SEEDS + 1])
    except ValueError:
        raise UsageError(f"seeds is {text!r}, {allowed}", "use --seeds 5") from None
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise UsageError(f"seeds is {text!r}, which is empty, negative or has one twice; {allowed}", "use --seeds 5")
    if len(seeds) > _MOST_SEEDS:
        raise UsageError(f"seeds is {text!r}, allowed are {_MOST_SEEDS} at most", "use --seeds 5")
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
    count = len(recipes) * len(seeds) * prod(len(values) for values in lists.values())
    if count > _MOST_CELLS:
        raise UsageError(
            f"the comparison has {count} runs, allowed are {_MOST_CELLS}", "give fewer recipes, values or seeds"
        )
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
    """Return the values of an option, each in its type: of a text with commas, of a list, or the one given."""
    if isinstance(value, list):
        values = [from_mapping({name: one}, "the list")[name] for one in cast("list[Any]", value)]
    elif not isinstance(value, str):
        return [value]
    else:
        several = "," in value and name not in _NO_LIST
        texts = [part.strip() for part in value.split(",")] if several else [value]
        values = [from_mapping({name: typed(name, text)}, "the command line")[name] for text in texts]
    if not values or len(set(map(repr, values))) < len(values):
        raise UsageError(f"--{name.replace('_', '-')} {value} is empty or has a value twice", "give each once")
    return values


def typed(name: str, text: str) -> Any:
    """Return a text as the number that an option takes, or as it is.

    Raises:
        UsageError: If the option takes a number and the text is none.
    """
    kind = kinds(TrainConfig)[name]
    parts = (kind,) if get_origin(kind) is Literal else get_args(kind) or (kind,)
    number = None if str in parts else int if int in parts else float if float in parts else None
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

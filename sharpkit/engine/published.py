"""What a preset is: values for the options of a run and of its recipes, each with its source and origin."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Origin = Literal["paper", "authors' code", "ours"]
"""Who says a value: the paper, its authors' public code, or nobody but this package."""

ORIGINS: tuple[Origin, ...] = get_args(Origin)


@dataclass(frozen=True)
class Value:
    """A value of a preset.

    Args:
        value: What TrainConfig or a recipe takes.
        source: Authors, year and place; of a value of ours, the reason for it.
        origin: Who says it.
    """

    value: Any
    source: str
    origin: Origin


Values = Mapping[str, Value]


@dataclass(frozen=True)
class Method:
    """What a paper sets for one recipe alone.

    Args:
        parameters: The recipe's own.
        options: Options of the run in which this recipe differs from the others.
    """

    parameters: Values = field(default_factory=dict[str, Value])
    options: Values = field(default_factory=dict[str, Value])


@dataclass(frozen=True)
class Preset:
    """The settings of a paper for one data set and model.

    Args:
        name: PAPER/DATASET/MODEL.
        cited: Authors and year.
        title: Of the paper.
        options: Options of the run, for every recipe alike.
        methods: Recipes that the paper trains with these settings, its own first.
    """

    name: str
    cited: str
    title: str
    options: Values
    methods: Mapping[str, Method]

    @property
    def brief_citation(self) -> str:
        """The first author and the year."""
        return f"{re.split('[ ,]', self.cited)[0]} {self.cited[-5:-1]}"

    @property
    def brief(self) -> str:
        """The paper's own method and two values, in 30 columns."""
        return f"{next(iter(self.methods))}, lr {self.options['lr'].value:g}, {self.options['epochs'].value} epochs"

    def rows(self) -> Iterator[tuple[str, Value]]:
        """Yield every value by name: `lr` for all recipes, `sgd:wd` and `sam:rho` for one."""
        yield from self.options.items()
        for name, method in self.methods.items():
            for key, value in {**method.parameters, **method.options}.items():
                yield f"{name}:{key}", value


@dataclass(frozen=True)
class Paper:
    """A paper that presets come from.

    Args:
        key: The first part of its presets' names.
        cited: Authors and year.
        title: Its title.
    """

    key: str
    cited: str
    title: str

    def says(self, place: str, /, **values: Any) -> dict[str, Value]:
        """Return values that stand in one place of the paper."""
        return {name: Value(value, f"{self.cited}, {place}", "paper") for name, value in values.items()}

    def code(self, place: str, /, **values: Any) -> dict[str, Value]:
        """Return values that stand in one place of the authors' code."""
        source = f"{self.cited}, authors' {place}"
        return {name: Value(value, source, "authors' code") for name, value in values.items()}

    def preset(self, data: str, model: str, options: Values, methods: Mapping[str, Method]) -> Preset:
        """Return the preset KEY/DATA/MODEL."""
        return Preset(f"{self.key}/{data}/{model}", self.cited, self.title, options, methods)


def ours(reason: str, /, **values: Any) -> dict[str, Value]:
    """Return values that neither a paper nor its authors' code gives."""
    return {name: Value(value, f"ours: {reason}", "ours") for name, value in values.items()}

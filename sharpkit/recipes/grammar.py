"""Recipe strings: `NAME[+NAME...][:key=value]...` to a rule, and what a recipe's parameters are."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from sharpkit.core.rule import Rule
from sharpkit.errors import UsageError
from sharpkit.recipes import RECIPES


@dataclass(frozen=True)
class Parameter:
    """A hyperparameter of a recipe, read off its function's signature."""

    name: str
    kind: Any  # float, int, a Literal, or `float | None` for a short form of others
    default: Any


def parameters(recipe: Callable[..., Rule]) -> dict[str, Parameter]:
    """Return the hyperparameters of a recipe function by name."""
    hints = get_type_hints(recipe)
    signature = inspect.signature(recipe).parameters
    return {name: Parameter(name, hints[name], p.default) for name, p in signature.items()}


def parse(text: str, table: Mapping[str, Callable[..., Rule]] | None = None) -> Rule:
    """Return the rule that a recipe string names.

    A parameter goes to every recipe of the union that has it: `sampa+asam:rho=0.5:lam=0.2`.

    Args:
        text: `NAME[+NAME...][:key=value]...`.
        table: Names and recipe functions; `RECIPES` by default.

    Raises:
        UsageError: If a name, parameter or value is unknown or out of range.
        ConflictError: If the recipes cannot be united.
    """
    table = RECIPES if table is None else table
    head, *assignments = text.strip().split(":")
    names = [name.strip() for name in head.split("+")]
    for name in names:
        if name not in table:
            raise UsageError(f"unknown optimizer {name!r} in {text!r}", _allowed(name, table))
        if names.count(name) > 1:
            raise UsageError(f"{name} is named twice in {text!r}", "name each recipe once")
    given: dict[str, str] = {}
    for key, raw in (_assignment(item, text) for item in assignments):
        if key in given:
            raise UsageError(f"{key} is given twice in {text!r}", "give it once")
        given[key] = raw
    known = {name: parameters(table[name]) for name in names}
    for key in given:
        if not any(key in own for own in known.values()):
            every = [k for own in known.values() for k in own]
            raise UsageError(f"{head} has no parameter {key!r}", _allowed(key, every))
    values = {
        name: {key: _convert(key, raw, own[key].kind, text) for key, raw in given.items() if key in own}
        for name, own in known.items()
    }
    rule = reduce(lambda a, b: a + b, (table[name](**values[name]) for name in names))
    return replace(rule, text=_canonical(rule, known, values))


def _assignment(item: str, text: str) -> tuple[str, str]:
    key, equals, raw = item.partition("=")
    if not equals or not key.strip() or not raw.strip():
        raise UsageError(f"{item!r} in {text!r} is not key=value", "write for example sam:rho=0.1")
    return key.strip(), raw.strip()


def _convert(key: str, raw: str, kind: Any, text: str) -> Any:
    if get_origin(kind) is UnionType:
        kind = get_args(kind)[0]
    if choices := get_args(kind):
        if raw in choices:
            return raw
        raise UsageError(f"{key} is {raw!r}", _allowed(raw, choices))
    if "," in raw:
        raise UsageError(f"{key}={raw} in {text!r} is a list of values", f"give {key} one value")
    try:
        return int(raw) if kind is int else float(raw)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise UsageError(f"{key} is {raw!r}, allowed is {wanted}", f"write for example {key}=1") from None


def _allowed(given: str, choices: Iterable[str]) -> str:
    choices = list(dict.fromkeys(choices))
    close = difflib.get_close_matches(given, choices, n=1)
    guess = f"did you mean {close[0]!r}? " if close else ""
    return f"{guess}allowed: {', '.join(choices)}" if choices else "it has none"


def _canonical(
    rule: Rule, known: Mapping[str, Mapping[str, Parameter]], values: Mapping[str, Mapping[str, Any]]
) -> str:
    """Write out every hyperparameter; where recipes share one, the value that holds in the rule."""
    settings: dict[str, Any] = {}
    for name, own in known.items():
        for key, parameter in own.items():
            value = values[name].get(key, parameter.default)
            if value is not None:
                settings.setdefault(key, value)
    radius = getattr(rule.radius, "rho", None)
    if "rho" in settings and radius is not None:
        settings["rho"] = radius
    return ":".join([rule.name, *(f"{key}={value}" for key, value in settings.items())])

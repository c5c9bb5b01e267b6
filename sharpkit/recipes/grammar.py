"""Recipe strings: `NAME[+NAME...][:key=value]...` to a rule, and what a recipe's parameters are."""

from __future__ import annotations

import difflib
import inspect
import re
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

    A parameter goes to every recipe of the union that has it, `sampa+asam:rho=0.5:lam=0.2`, or to one that is named
    before it, `gnp+bisam-tanh:gnp.alpha=0.8`.

    Args:
        text: `NAME[+NAME...][:key=value]...`.
        table: Names and recipe functions; `RECIPES` by default.

    Raises:
        UsageError: If a name, parameter or value is unknown or out of range.
        ConflictError: If the recipes cannot be united.
    """
    table = RECIPES if table is None else table
    head, *assignments = pieces(text)
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
        owner, _, bare = key.rpartition(".")
        if not any(bare in own for name, own in known.items() if owner in ("", name)):
            every = [k for own in known.values() for k in own]
            raise UsageError(f"{head} has no parameter {key!r}", _allowed(key, every) if every else "leave it out")
    values = {
        name: {
            key: _convert(key, given[place], parameter.kind, text)
            for key, parameter in own.items()
            if (place := next((k for k in (f"{name}.{key}", key) if k in given), None))
        }
        for name, own in known.items()
    }
    rule = reduce(lambda a, b: a + b, (table[name](**values[name]) for name in names))
    return replace(rule, text=_canonical(rule, known, values))


def pieces(text: str) -> list[str]:
    """Return a recipe string cut at its colons, but for those inside a value such as 2:4."""
    return re.split(r":(?!\d+(?:[:,]|$))", text.strip()) if "=" in text else text.strip().split(":")


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
    """Write out every hyperparameter; where recipes share one and differ in it, with the recipe's name before it."""
    full = {
        name: {key: values[name].get(key, parameter.default) for key, parameter in own.items()}
        for name, own in known.items()
    }
    radius = getattr(rule.radius, "rho", None)
    settings: dict[str, Any] = {}
    for name, own in full.items():
        for key, value in own.items():
            held = radius if key == "rho" and radius is not None else value
            others = [other[key] for other in full.values() if other.get(key) is not None]
            shared = key == "rho" or all(other == held for other in others)
            if held is not None:
                settings.setdefault(key if shared else f"{name}.{key}", held)
    return ":".join([rule.name, *(f"{key}={value}" for key, value in settings.items())])

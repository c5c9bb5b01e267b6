"""`sharpkit ls`: what the names are."""

from __future__ import annotations

import inspect
from typing import Annotated, Any, Literal

import typer

from sharpkit.cli.terminal import Terminal
from sharpkit.engine.documents import document, to_json

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]


def ls(
    what: Annotated[
        Literal["opts", "models", "data", "presets"], typer.Argument(help="opts, models, data or presets.")
    ] = "opts",
    *,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """List the optimizers, models, data sets or presets that can be named.

    Example: sharpkit ls opts
    """
    terminal = Terminal()
    if json:
        print(to_json(document("ls", {"what": what, "items": _items(what)})), end="")
    else:
        terminal.rows(*_table(what, brief=terminal.person))


def _table(what: str, *, brief: bool) -> Table:
    """Return header and rows; a person gets the columns that fit a terminal."""
    if what == "presets":
        return _presets(brief=brief)
    if what == "opts":
        return _opts(brief=brief)
    return _models() if what == "models" else _data()


def _items(what: str) -> list[dict[str, Any]]:
    if what == "presets":
        return _preset_items()
    header, rows = _table(what, brief=False)
    return [dict(zip(header, row, strict=True)) for row in rows]


def _opts(*, brief: bool) -> Table:
    from sharpkit.recipes import RECIPES
    from sharpkit.recipes.describe import describe

    told = [(name, describe(recipe)) for name, recipe in RECIPES.items()]
    if brief:
        header = ("name", "parameters", "gradients", "what it does")
        return header, [(n, " ".join(d.settings), d.cost.partition(" gradient")[0], d.brief) for n, d in told]
    header = ("name", "parameters", "slots", "cost", "source", "what it does")
    return header, [(n, " ".join(d.settings), " ".join(d.slots), d.cost, d.source, d.what) for n, d in told]


def _models() -> Table:
    from sharpkit.models import MODELS
    from sharpkit.models.describe import describe

    told = [(name, describe(name)) for name in MODELS]
    return ("name", "parameters", "what it is"), [(name, str(d.parameters), d.what) for name, d in told]


def _data() -> Table:
    from sharpkit.data import DATASETS

    return ("name", "what it is"), [(name, _first_line(loader)) for name, loader in DATASETS.items()]


def _presets(*, brief: bool) -> Table:
    """Return a row for every value, or for a person one for every preset."""
    from sharpkit.engine.papers import PRESETS

    if brief:
        return ("name", "paper", "main values"), [(p.name, p.brief_citation, p.brief) for p in PRESETS.values()]
    rows = [
        (preset.name, option, str(value.value), value.source)
        for preset in PRESETS.values()
        for option, value in preset.rows()
    ]
    return ("preset", "option", "value", "source"), rows


def _preset_items() -> list[dict[str, Any]]:
    from sharpkit.engine.papers import PRESETS

    return [
        {
            "name": preset.name,
            "paper": f"{preset.cited}, {preset.title}",
            "opts": list(preset.methods),
            "values": [
                {"option": option, "value": value.value, "source": value.source} for option, value in preset.rows()
            ],
        }
        for preset in PRESETS.values()
    ]


def _first_line(documented: object) -> str:
    return (inspect.getdoc(documented) or "").split("\n")[0]

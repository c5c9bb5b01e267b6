"""`sharpkit ls`: what the names are."""

from __future__ import annotations

import inspect
from typing import Annotated, Literal

import typer

from sharpkit.cli.terminal import Terminal
from sharpkit.engine.documents import document, to_json


def ls(
    what: Annotated[Literal["opts", "models", "data"], typer.Argument(help="opts, models or data.")] = "opts",
    *,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """List the optimizers, models or data sets that can be named.

    Example: sharpkit ls opts
    """
    terminal = Terminal()
    header, rows = _opts(brief=terminal.person and not json) if what == "opts" else _described(what)
    if json:
        items = [dict(zip(header, row, strict=True)) for row in rows]
        print(to_json(document("ls", {"what": what, "items": items})), end="")
    else:
        terminal.rows(header, rows)


def _opts(*, brief: bool) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return a row for every recipe; a person gets the columns that fit a terminal."""
    from sharpkit.recipes import RECIPES
    from sharpkit.recipes.describe import describe

    told = [(name, describe(recipe)) for name, recipe in RECIPES.items()]
    if brief:
        header = ("name", "parameters", "gradients", "what it does")
        return header, [(n, " ".join(d.settings), d.cost.partition(" gradient")[0], d.brief) for n, d in told]
    header = ("name", "parameters", "slots", "cost", "source", "what it does")
    return header, [(n, " ".join(d.settings), " ".join(d.slots), d.cost, d.source, d.what) for n, d in told]


def _described(what: str) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    from sharpkit.data import DATASETS
    from sharpkit.models import MODELS
    from sharpkit.models.describe import describe

    if what == "models":
        told = [(name, describe(builder)) for name, builder in MODELS.items()]
        return ("name", "parameters", "what it is"), [(name, str(d.parameters), d.what) for name, d in told]
    return ("name", "what it is"), [(name, _first_line(loader)) for name, loader in DATASETS.items()]


def _first_line(documented: object) -> str:
    return (inspect.getdoc(documented) or "").split("\n")[0]

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
    header, rows = _opts() if what == "opts" else _described(what)
    if json:
        items = [dict(zip(header, row, strict=True)) for row in rows]
        print(to_json(document("ls", {"what": what, "items": items})), end="")
    else:
        Terminal().rows(header, rows)


def _opts() -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    from sharpkit.recipes import RECIPES
    from sharpkit.recipes.grammar import parameters

    rows: list[tuple[str, ...]] = []
    for name, recipe in RECIPES.items():
        settings = " ".join(f"{p.name}={p.default}" for p in parameters(recipe).values())
        slots = " ".join(sorted(recipe().stated()))
        rows.append((name, settings, slots, _first_line(recipe)))
    return ("name", "parameters", "slots", "what it does"), rows


def _described(what: str) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    from sharpkit.data import DATASETS
    from sharpkit.models import MODELS

    table = MODELS if what == "models" else DATASETS
    return ("name", "what it is"), [(name, _first_line(builder)) for name, builder in table.items()]


def _first_line(documented: object) -> str:
    return (inspect.getdoc(documented) or "").split("\n")[0]

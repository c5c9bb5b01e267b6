"""`sharpkit ls`: what the names are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sharpkit.cli.terminal import Terminal
from sharpkit.engine.config import options
from sharpkit.engine.documents import document, to_json

if TYPE_CHECKING:
    from sharpkit.data.source import Access, Source

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]


def ls(
    what: Annotated[
        Literal["opts", "unions", "models", "data", "presets"],
        typer.Argument(help="opts, unions, models, data or presets."),
    ] = "opts",
    *,
    data_dir: Annotated[
        str,
        typer.Option(
            "--data-dir",
            metavar="DIR",
            envvar="SHARPKIT_DATA_DIR",
            show_envvar=False,
            help="Folder that data sets are looked for in.",
        ),
    ] = str(options()["data_dir"].default),
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """List the optimizers, their unions, models, data sets or presets that can be named.

    Example: sharpkit ls opts
    """
    terminal = Terminal()
    if json:
        print(to_json(document("ls", {"what": what, "items": _items(what, data_dir)})), end="")
    else:
        terminal.rows(*_table(what, data_dir, brief=terminal.person))


def _table(what: str, data_dir: str, *, brief: bool) -> Table:
    """Return header and rows; a person gets the columns that fit a terminal."""
    if what == "presets":
        return _presets(brief=brief)
    if what == "unions":
        return _unions(brief=brief)
    if what == "data":
        return _data(data_dir, brief=brief)
    return _opts(brief=brief) if what == "opts" else _models()


def _items(what: str, data_dir: str) -> list[dict[str, Any]]:
    if what == "presets":
        return _preset_items()
    header, rows = _table(what, data_dir, brief=False)
    return [dict(zip(header, row, strict=True)) for row in rows]


def _opts(*, brief: bool) -> Table:
    from sharpkit.recipes import RECIPES
    from sharpkit.recipes.describe import describe

    told = [(name, describe(recipe)) for name, recipe in RECIPES.items()]
    if brief:
        header = ("name", "parameters", "gradients", "what it does")
        return header, [(n, " ".join(d.settings), d.cost.partition(" gradient")[0], d.brief) for n, d in told]
    apart = _apart()
    header = ("name", "parameters", "slots", "cost", "not with", "source", "what it does")
    return header, [
        (n, " ".join(d.settings), " ".join(d.slots), d.cost, " ".join(apart[n]), d.source, d.what) for n, d in told
    ]


def _unions(*, brief: bool) -> Table:
    """Return a row for every pair with why it is refused, or for a person what each recipe does not join with."""
    from sharpkit.recipes import RECIPES
    from sharpkit.recipes.unions import refusals

    if not brief:
        rows = [(f"{a}+{b}", "no" if why else "yes", why) for (a, b), why in refusals().items()]
        return ("union", "allowed", "why not"), rows
    others = len(RECIPES) - 1
    rows = [(name, str(others - len(apart)), ", ".join(apart) or "-") for name, apart in _apart().items()]
    return ("name", "joins with", "not with"), rows


def _apart() -> dict[str, list[str]]:
    """Return for every recipe those that it does not join with."""
    from sharpkit.recipes import RECIPES
    from sharpkit.recipes.unions import refusals

    refused = [pair for pair, why in refusals().items() if why]
    return {name: [b if a == name else a for a, b in refused if name in (a, b)] for name in RECIPES}


def _models() -> Table:
    from sharpkit.models import FORMS, MODELS
    from sharpkit.models.describe import describe

    told = [(name, describe(name)) for name in MODELS]
    rows = [(name, str(d.parameters), d.what) for name, d in told]
    return ("name", "parameters", "what it is"), [*rows, *((form, "", what) for form, what in FORMS.items())]


def _data(data_dir: str, *, brief: bool) -> Table:
    """Return size and place of every data set, and whether it is there."""
    from sharpkit.data import DATASETS
    from sharpkit.data.source import Access

    access = Access(Path(data_dir))
    told = [(name, source, source.size, source.size.form) for name, source in DATASETS.items()]
    if brief:
        return ("name", "samples", "shape", "classes", "place"), [
            (name, f"{n.training}+{n.test}", shape, str(n.classes), _place(source, access))
            for name, source, n, shape in told
        ]
    header = ("name", "training", "test", "shape", "classes", "there", "place", "what it is")
    rows = [
        (name, str(n.training), str(n.test), shape, str(n.classes), _there(source, access), source.place(access))
        for name, source, n, shape in told
    ]
    return header, [(*row, source.what) for row, source in zip(rows, DATASETS.values(), strict=True)]


def _there(source: Source, access: Access) -> str:
    return "yes" if source.there(access) else "no"


def _place(source: Source, access: Access) -> str:
    """Return for a person where a data set is, or where it is not."""
    if not source.there(access):
        return f"not in {access.folder}"
    return source.place(access).replace(str(Path.home()), "~", 1)


def _presets(*, brief: bool) -> Table:
    """Return a row for every value, or for a person one for every preset."""
    from sharpkit.engine.papers import PRESETS

    if brief:
        return ("name", "paper", "main values"), [(p.name, p.brief_citation, p.brief) for p in PRESETS.values()]
    rows = [
        (preset.name, option, str(value.value), value.origin, value.source)
        for preset in PRESETS.values()
        for option, value in preset.rows()
    ]
    return ("preset", "option", "value", "origin", "source"), rows


def _preset_items() -> list[dict[str, Any]]:
    from sharpkit.engine.papers import PRESETS

    return [
        {
            "name": preset.name,
            "paper": f"{preset.cited}, {preset.title}",
            "opts": list(preset.methods),
            "values": [
                {"option": option, "value": value.value, "origin": value.origin, "source": value.source}
                for option, value in preset.rows()
            ],
        }
        for preset in PRESETS.values()
    ]

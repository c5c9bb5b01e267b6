"""`sharpkit ls`: what the names are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sharpkit.cli.catalogue import catalogue
from sharpkit.cli.terminal import Terminal
from sharpkit.data.place import Place
from sharpkit.engine.config import options
from sharpkit.engine.documents import document, to_json

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
    told = catalogue().recipes.items()
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
    if not brief:
        rows = [(f"{a}+{b}", "no" if why else "yes", why) for (a, b), why in catalogue().refusals.items()]
        return ("union", "allowed", "why not"), rows
    others = len(catalogue().recipes) - 1
    rows = [(name, str(others - len(apart)), ", ".join(apart) or "-") for name, apart in _apart().items()]
    return ("name", "joins with", "not with"), rows


def _apart() -> dict[str, list[str]]:
    """Return for every recipe those that it does not join with."""
    refused = [pair for pair, why in catalogue().refusals.items() if why]
    return {name: [b if a == name else a for a, b in refused if name in (a, b)] for name in catalogue().recipes}


def _models() -> Table:
    from sharpkit.models import FORMS, MODELS
    from sharpkit.models.describe import describe

    told = [(name, describe(name)) for name in MODELS]
    rows = [(name, str(d.parameters), d.what) for name, d in told]
    return ("name", "parameters", "what it is"), [*rows, *((form, "", what) for form, what in FORMS.items())]


def _data(data_dir: str, *, brief: bool) -> Table:
    """Return size and place of every data set, and whether it is there."""
    folder, told = Path(data_dir), catalogue().data.items()
    if brief:
        return ("name", "samples", "shape", "classes", "place"), [
            (name, f"{d.training}+{d.test}", d.shape, str(d.classes), _place(d.place, folder)) for name, d in told
        ]
    header = ("name", "training", "test", "shape", "classes", "there", "place", "what it is")
    return header, [
        (name, str(d.training), str(d.test), d.shape, str(d.classes), _there(d.place, folder), d.place.text(folder),
         d.what)
        for name, d in told
    ]  # fmt: skip


def _there(place: Place, folder: Path) -> str:
    return "yes" if place.holds(folder) else "no"


def _place(place: Place, folder: Path) -> str:
    """Return for a person where a data set is, or where it is not."""
    if not place.holds(folder):
        return f"not in {folder}"
    return place.text(folder).replace(str(Path.home()), "~", 1)


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

"""What `sharpkit ls` lists, kept in a file beside this module, so that it answers without importing torch.

`python -m sharpkit.cli.catalogue` writes the file anew; a test compares it with what the recipes and data sets say.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sharpkit.data.place import Folder, Package, Place

FILE = Path(__file__).with_name("catalogue.json")


@dataclass(frozen=True)
class Recipe:
    """A recipe in a few words, as `sharpkit.recipes.describe.Description` has them."""

    what: str
    brief: str
    cost: str
    source: str
    settings: tuple[str, ...]
    slots: tuple[str, ...]


@dataclass(frozen=True)
class DataSet:
    """A data set in a few words: its first sentence, samples, shape of an input, classes, and its place."""

    what: str
    training: int
    test: int
    shape: str
    classes: int
    place: Place


@dataclass(frozen=True)
class Catalogue:
    """Recipes, why pairs of them are refused (empty where they unite), and data sets, by name."""

    recipes: dict[str, Recipe]
    refusals: dict[tuple[str, str], str]
    data: dict[str, DataSet]


@cache
def catalogue() -> Catalogue:
    """Return what the file says."""
    content: Any = json.loads(FILE.read_text(encoding="utf-8"))
    recipes = {
        name: Recipe(**dict(told, settings=tuple(told["settings"]), slots=tuple(told["slots"])))
        for name, told in content["recipes"].items()
    }
    refusals: dict[tuple[str, str], str] = {(a, b): why for a, b, why in content["unions"]}
    data = {name: DataSet(**dict(told, place=_place(told["place"]))) for name, told in content["data"].items()}
    return Catalogue(recipes, refusals, data)


def _place(told: dict[str, Any]) -> Place:
    if "package" in told:
        return Package(told["package"])
    return Folder(told["folder"], tuple(tuple(names) for names in told["files"]))


def described() -> dict[str, Any]:
    """Return the file's content, asked of the recipes and data sets themselves; imports torch."""
    from sharpkit.data import DATASETS
    from sharpkit.recipes import RECIPES
    from sharpkit.recipes.describe import describe
    from sharpkit.recipes.unions import refusals

    recipes = {
        name: {"what": d.what, "brief": d.brief, "cost": d.cost, "source": d.source, "settings": list(d.settings),
               "slots": list(d.slots)}
        for name, d in ((name, describe(recipe)) for name, recipe in RECIPES.items())
    }  # fmt: skip
    data = {
        name: {"what": s.what, "training": s.size.training, "test": s.size.test, "shape": s.size.form,
               "classes": s.size.classes, "place": _told(s.where)}
        for name, s in DATASETS.items()
    }  # fmt: skip
    return {"recipes": recipes, "unions": [[a, b, why] for (a, b), why in refusals().items()], "data": data}


def _told(place: Place) -> dict[str, Any]:
    if isinstance(place, Package):
        return {"package": place.name}
    assert isinstance(place, Folder)
    return {"folder": place.name, "files": [list(names) for names in place.files]}


def text() -> str:
    """Return the file as it should be."""
    return json.dumps(described(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")

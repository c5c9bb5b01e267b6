"""Every recipe has a page that names its parameters with their defaults, and a figure."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sharpkit import RECIPES
from sharpkit.recipes.grammar import parameters

PAGES = Path(__file__).parents[2] / "docs" / "recipes"


def section(text: str, title: str) -> str:
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_has_a_page_with_every_section(recipe: str) -> None:
    text = (PAGES / f"{recipe}.md").read_text(encoding="utf-8")
    titles = re.findall(r"^## (.*)$", text, re.MULTILINE)
    wanted = ["Equations", "Parameters", "Cost", "What official code does", "When to use it", "Example", "Figure"]
    assert titles == wanted
    assert f"sharpkit train --opt {recipe}" in section(text, "Example")
    assert f"../_generated/{recipe}.png" in section(text, "Figure")


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_page_states_every_parameter_with_its_default(recipe: str) -> None:
    text = section((PAGES / f"{recipe}.md").read_text(encoding="utf-8"), "Parameters")
    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", text, re.MULTILINE)
    assert rows == [(p.name, str(p.default)) for p in parameters(RECIPES[recipe]).values()]

"""The named variants: `RECIPES` maps a name to the function that builds its rule."""

from __future__ import annotations

from collections.abc import Callable

from sharpkit.core.rule import Rule
from sharpkit.recipes.asam import asam
from sharpkit.recipes.sam import sam
from sharpkit.recipes.sampa import sampa
from sharpkit.recipes.sgd import sgd

RECIPES: dict[str, Callable[..., Rule]] = {
    "sgd": sgd,
    "sam": sam,
    "asam": asam,
    "sampa": sampa,
}

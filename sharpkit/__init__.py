"""sharpkit: sharpness-aware training of neural networks.

Importing the package does not import torch; the first use of a public name does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sharpkit.core.comm import Ranks as Ranks
    from sharpkit.core.report import StepReport as StepReport
    from sharpkit.core.rule import Rule as Rule
    from sharpkit.core.task import Batch as Batch
    from sharpkit.core.task import Supervised as Supervised
    from sharpkit.core.task import Task as Task
    from sharpkit.engine.metrics import glue_average as glue_average
    from sharpkit.recipes import RECIPES as RECIPES
    from sharpkit.recipes.grammar import parse as parse
    from sharpkit.recipes.optimizer import SharpnessAware as SharpnessAware

__version__ = "0.1.0"

_HOMES = {
    "Batch": "sharpkit.core.task",
    "RECIPES": "sharpkit.recipes",
    "Ranks": "sharpkit.core.comm",
    "Rule": "sharpkit.core.rule",
    "SharpnessAware": "sharpkit.recipes.optimizer",
    "StepReport": "sharpkit.core.report",
    "Supervised": "sharpkit.core.task",
    "Task": "sharpkit.core.task",
    "glue_average": "sharpkit.engine.metrics",
    "parse": "sharpkit.recipes.grammar",
}

__all__ = [
    "RECIPES",
    "Batch",
    "Ranks",
    "Rule",
    "SharpnessAware",
    "StepReport",
    "Supervised",
    "Task",
    "__version__",
    "glue_average",
    "parse",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'sharpkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

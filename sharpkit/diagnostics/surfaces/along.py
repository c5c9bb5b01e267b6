"""A model made ready for moves along a plane."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from torch import nn

from sharpkit.diagnostics.measured import measured
from sharpkit.diagnostics.surfaces.effective import bake
from sharpkit.diagnostics.surfaces.plane import Plane


@contextmanager
def along(model: nn.Module, plane: Plane) -> Generator[list[str]]:
    """Have a model hold every parameter that a plane moves, and put it back as `measured` does.

    Args:
        model: At w.
        plane: Of this model.

    Returns:
        Notes on what is measured.
    """
    with measured(model) as (_, notes):
        if plane.effective:
            bake(model)
        yield notes

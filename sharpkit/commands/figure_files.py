"""Figures as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sharpkit.commands.ownership import MARK
from sharpkit.engine.atomic import write_atomically

FIGURES = (".png", ".pdf", ".svg")
"""The endings of figures."""


def write_figure(path: Path, figure: Any) -> Path:
    """Write a matplotlib figure whole or not at all, in the format of its ending."""
    signed = {("Software" if path.suffix == ".png" else "Creator"): MARK}
    write_atomically(path, lambda file: figure.savefig(file, dpi=200, format=path.suffix[1:], metadata=signed))
    return path

"""Several processes of one command: the first one prints, and an error is told once, by the process that it is of."""

from __future__ import annotations

import os
import pathlib
import sys
from typing import TextIO

from sharpkit.engine.world import World, world
from sharpkit.errors import UsageError

_kept: list[TextIO] = []


def hush() -> None:
    """Have every process but the first print nothing but its errors."""
    if not world().first:
        _kept.append(sys.stderr)
        sys.stdout = sys.stderr = pathlib.Path(os.devnull).open("w")  # noqa: SIM115


def errors() -> TextIO:
    """Return where errors go."""
    return _kept[0] if _kept else sys.stderr


def speaker(error: BaseException) -> str | None:
    """Return what stands before an error's message in this process's line, or None if it is another's to tell it."""
    here = _world_or_none()
    if here is None or here.size == 1:
        return ""
    ranks = sys.modules.get("sharpkit.engine.ranks")
    if ranks is not None and ranks.has_joined():
        return ranks.told_first(error)
    if isinstance(error, UsageError) or not isinstance(error, Exception) or type(error).__module__.startswith("typer"):
        return "" if here.first else None  # of the command line, which is the same for all
    return f"rank {here.rank}: "


def _world_or_none() -> World | None:
    """Return which process this is, or None where the environment contradicts itself, which is told as an error."""
    try:
        return world()
    except UsageError:
        return None

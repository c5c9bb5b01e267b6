"""What the processes of a command agree on, so that none waits for an exchange that another does not make."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sharpkit.engine.ranks import current
from sharpkit.engine.runtime import StopRequest
from sharpkit.errors import SharpkitError

T = TypeVar("T")


def everywhere(work: Callable[[], T]) -> T:
    """Do something that needs no exchange, as reading a file, and raise in all processes what one raises."""
    value: T | None = None
    mine: SharpkitError | None = None
    try:
        value = work()
    except SharpkitError as error:
        mine = error
    for error in current().objects(mine):
        if error is not None:
            raise error
    return value  # pyright: ignore[reportReturnType]


def stopped(stop: StopRequest) -> int:
    """Return the signal that asked any process to stop, 0 for none."""
    return max(current().objects(int(stop.signal_number)))

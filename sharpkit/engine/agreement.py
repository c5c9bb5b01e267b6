"""What the processes of a command agree on, so that none waits for an exchange that another does not make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

from sharpkit.core.comm import Comm
from sharpkit.engine.ranks import current
from sharpkit.engine.runtime import StopRequest
from sharpkit.errors import SharpkitError

T = TypeVar("T")


def on_first(work: Callable[[], T]) -> T:
    """Have the first process do something with files, and return what it gave, or raise what it raised, on all."""
    comm = current()
    if comm.size == 1:
        return work()
    outcome: tuple[bool, Any] = (True, None)
    if comm.rank == 0:
        try:
            outcome = True, work()
        except SharpkitError as error:
            outcome = False, error
    done, value = comm.agreed(outcome)
    if not done:
        raise cast("SharpkitError", value)
    return cast("T", value)


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


class Stops:
    """Whether any process was asked to stop: all hear of it after the same step, and none waits for the others.

    Args:
        stop: This process's signals.
        comm: The processes.
    """

    def __init__(self, stop: StopRequest, comm: Comm) -> None:
        self._stop = stop
        self._comm = comm
        self._flags = torch.zeros(1, dtype=torch.int64)
        self._wait: Callable[[], object] | None = None

    def heard(self) -> int:
        """Return the signal that asked to stop, 0 for none; of several processes as of one step ago."""
        if self._comm.size == 1:
            return self._stop.signal_number
        number = 0
        if self._wait is not None:
            self._wait()
            if int(self._flags):
                number = max(self._comm.objects(self._stop.signal_number))
        self._flags = torch.tensor([self._stop.signal_number])
        self._wait = self._comm.begin_sum_(self._flags)
        return number

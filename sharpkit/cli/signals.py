"""SIGTERM before a command listens for it: an error like any other, told in one line."""

from __future__ import annotations

import signal
from types import FrameType

from sharpkit.engine.world import world
from sharpkit.errors import UsageError


class Terminated(BaseException):
    """SIGTERM. Not an Exception, so that nobody takes it for a failure and goes on."""


def end_on_sigterm() -> None:
    """Have SIGTERM raise `Terminated`, unless the caller has it ignored.

    Of several processes it stays as it is: torchrun sends it to those that are left where one has told an error.
    """
    try:
        several = world().size > 1
    except UsageError:
        return
    if not several and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _end)


def _end(number: int, frame: FrameType | None) -> None:
    raise Terminated

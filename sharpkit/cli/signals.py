"""SIGTERM before a command listens for it: an error like any other, told in one line."""

from __future__ import annotations

import signal
from types import FrameType

from sharpkit.cli.processes import world_or_none


class Terminated(BaseException):
    """SIGTERM. Not an Exception, so that nobody takes it for a failure and goes on."""


def end_on_sigterm() -> None:
    """Have SIGTERM raise `Terminated`, unless the caller has it ignored.

    Of several processes it stays as it is: torchrun sends it to those that are left where one has told an error.
    """
    here = world_or_none()
    if here is not None and here.size == 1 and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _end)


def _end(number: int, frame: FrameType | None) -> None:
    raise Terminated

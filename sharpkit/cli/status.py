"""How a measurement gets on, on stderr: a line that changes for a person, a plain line now and then otherwise."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.status import Status

from sharpkit.cli.terminal import Terminal

_EVERY = 10.0
"""Seconds between two plain lines."""


class StatusProgress:
    """Tells a person, or a log file, how far a measurement of checkpoints is.

    Args:
        terminal: Decides between a line that changes, plain lines and silence.
    """

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._status: Status | None = None
        self._name = ""
        self._begun = self._told = 0.0
        self._first: tuple[int, float] | None = None

    def __enter__(self) -> Self:
        if self._terminal.bars:
            self._status = self._terminal.err().status("")
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def begin(self, name: str, number: int, count: int) -> None:
        """Show which checkpoint it is."""
        self._name = name if count == 1 else f"{number}/{count} {name}"
        self._begun = self._told = time.monotonic()
        self._first = None
        if self._status is not None:
            self._status.update(self._name)

    def left(self, done: int, total: int) -> float | None:
        """Return the seconds that are left at the pace since the first call; loading and warming up do not count."""
        now = time.monotonic()
        if self._first is None or done <= self._first[0]:
            self._first = (done, now)
            return None
        before, since = self._first
        return (now - since) * (total - done) / (done - before)

    def tell(self, text: str) -> None:
        """Show how far the checkpoint is."""
        now = time.monotonic()
        text = f"{self._name}  {text}  {now - self._begun:.0f} s"
        if self._status is not None:
            self._status.update(text)
        elif now - self._told > _EVERY:
            self._terminal.say(text)
            self._told = now

    def note(self, text: str) -> None:
        """Write a line."""
        if self._status is not None:
            self._status.console.print(text, style="dim", markup=False)
        else:
            self._terminal.say(text)

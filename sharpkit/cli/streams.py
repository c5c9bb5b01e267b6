"""Standard streams that cannot be written to: a full disk, or a reader that is gone."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any, TextIO, cast


class Unfailing:
    """A stream of messages that drops what cannot be written: no lost message is worth the run that it tells of.

    Args:
        stream: Where messages go.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text, or drop it."""
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, if that is possible."""
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def make_messages_unfailing() -> None:
    """Have a full disk under stderr end nothing."""
    sys.stderr = cast("TextIO", Unfailing(sys.stderr))


def silence_output_if_broken() -> None:
    """Send stdout nowhere if it cannot be written to, so that the interpreter does not complain at exit."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

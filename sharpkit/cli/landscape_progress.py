"""How a surface gets on, on stderr: points known, and when the rest will be."""

from __future__ import annotations

import time

from sharpkit.cli.status import StatusProgress


class LandscapeProgress(StatusProgress):
    """Tells a person, or a log file, how many points are known."""

    _first: tuple[int, float] = (0, 0.0)

    def begin(self, name: str, number: int, count: int) -> None:
        """Show which checkpoint it is."""
        super().begin(name, number, count)
        self._first = (0, 0.0)

    def point(self, known: int, wanted: int, loss: float) -> None:
        """Show the points known and the time that is left."""
        now = time.monotonic()
        if known <= self._first[0] or not self._first[1]:
            self._first = (known, now)
        done, begun = known - self._first[0], self._first[1]
        left = f"  {(now - begun) / done * (wanted - known):.0f} s left" if done else ""
        seen = f"  loss {loss:.4g}" if loss == loss else ""
        self.tell(f"{known}/{wanted} points{seen}{left}")

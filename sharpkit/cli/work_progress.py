"""How much of a measurement is done, and how long the rest takes, on stderr."""

from __future__ import annotations

import time

from sharpkit.cli.status import StatusProgress


class WorkProgress(StatusProgress):
    """Tells a person, or a log file, how many pieces of work are done."""

    _first: tuple[int, float] = (0, 0.0)

    def done(self, done: int, total: int) -> None:
        """Show how much is done, and the time that is left at this pace; loading and warming up do not count."""
        now = time.monotonic()
        if done <= self._first[0] or self._first[1] < self._begun:
            self._first = (done, now)
        made = done - self._first[0]
        left = f"  about {(now - self._first[1]) * (total - done) / made:.0f} s left" if made else ""
        self.tell(f"{done}/{total}{left}")

"""How much of a measurement is done, and how long the rest takes, on stderr."""

from __future__ import annotations

import time

from sharpkit.cli.status import StatusProgress


class WorkProgress(StatusProgress):
    """Tells a person, or a log file, how many pieces of work are done."""

    def done(self, done: int, total: int) -> None:
        """Show how much is done, and the time that is left at this pace."""
        left = (time.monotonic() - self._begun) * (total - done) / max(1, done)
        self.tell(f"{done}/{total}  about {left:.0f} s left")

"""How much of a measurement is done, and how long the rest takes, on stderr."""

from __future__ import annotations

from sharpkit.cli.status import StatusProgress


class WorkProgress(StatusProgress):
    """Tells a person, or a log file, how many pieces of work are done."""

    def done(self, done: int, total: int) -> None:
        """Show how much is done, and the time that is left."""
        seconds = self.left(done, total)
        left = "" if seconds is None else f"  about {seconds:.0f} s left"
        self.tell(f"{done}/{total}{left}")

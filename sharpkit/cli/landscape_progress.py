"""How a surface gets on, on stderr: points known, and when the rest will be."""

from __future__ import annotations

from sharpkit.cli.status import StatusProgress


class LandscapeProgress(StatusProgress):
    """Tells a person, or a log file, how many points are known."""

    def point(self, known: int, wanted: int, loss: float) -> None:
        """Show the points known and the time that is left."""
        seconds = self.left(known, wanted)
        left = "" if seconds is None else f"  {seconds:.0f} s left"
        seen = f"  loss {loss:.4g}" if loss == loss else ""
        self.tell(f"{known}/{wanted} points{seen}{left}")

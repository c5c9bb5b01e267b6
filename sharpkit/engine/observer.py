"""Who is told how a run goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from sharpkit.engine.session import Session


class Observer(Protocol):
    """Somebody who is told how a run goes."""

    def begin(self, session: Session, step: int) -> None:
        """The run starts, or goes on, after `step` steps."""
        ...

    def step(self, step: int, size: int) -> None:
        """A step on `size` samples is done; nothing has been read from the device."""
        ...

    def live(self, values: dict[str, float]) -> None:
        """Values of the epoch so far have been read anyway."""
        ...

    def epoch(self, record: dict[str, Any]) -> None:
        """An epoch is done."""
        ...

    def note(self, text: str) -> None:
        """Something that a person would like to know."""
        ...


class Quiet:
    """An observer that ignores everything."""

    def begin(self, session: Session, step: int) -> None:
        """Ignore."""

    def step(self, step: int, size: int) -> None:
        """Ignore."""

    def live(self, values: dict[str, float]) -> None:
        """Ignore."""

    def epoch(self, record: dict[str, Any]) -> None:
        """Ignore."""

    def note(self, text: str) -> None:
        """Ignore."""

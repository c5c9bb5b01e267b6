"""Where output goes and in which form: a table for a person, tab-separated values for a pipe, JSON on request."""

from __future__ import annotations

import os
import pathlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console
from rich.table import Table


class EndedEarly(Exception):  # noqa: N818
    """The result is written, and the program ends with another exit code than 0."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Terminal:
    """How this call writes.

    Args:
        json: Whether stdout gets one JSON document.
        quiet: Whether stderr gets errors only.
        progress: Whether bars are allowed.
        color: Whether colour is allowed; NO_COLOR forbids it as well.
    """

    json: bool = False
    quiet: bool = False
    progress: bool = True
    color: bool = True

    @property
    def person(self) -> bool:
        """Whether stdout is read by a person."""
        return sys.stdout.isatty() and not self.json and not self.quiet

    @property
    def bars(self) -> bool:
        """Whether progress bars are drawn."""
        return self.progress and not self.quiet and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def out(self) -> Console:
        """Return the console on stdout."""
        return Console(color_system=self._colors, highlight=False)

    def err(self) -> Console:
        """Return the console on stderr."""
        return Console(stderr=True, color_system=self._colors, highlight=False)

    @property
    def _colors(self) -> Literal["auto"] | None:
        """Not rich's `no_color`, which leaves bold and dim."""
        return None if not self.color or os.environ.get("NO_COLOR") else "auto"

    def say(self, text: str) -> None:
        """Write one line to stderr, unless quiet."""
        if not self.quiet:
            try:
                print(text, file=sys.stderr, flush=True)
            except BrokenPipeError:  # who read the log is gone; the run goes on
                sys.stderr = pathlib.Path(os.devnull).open("w")  # noqa: SIM115

    def rows(self, header: Sequence[str], rows: Iterable[Sequence[str]], title: str = "", whole: int = 0) -> None:
        """Write a table to stdout: rich for a person, tab-separated with a header otherwise.

        Args:
            header: Names of the columns.
            rows: Their cells.
            title: For a person.
            whole: How many columns, from the left, are not broken into lines as long as others can be.
        """
        if not self.person:
            for row in (header, *rows):
                print("\t".join(cell.replace("\t", " ") for cell in row))
            return
        table = Table(title=title or None, title_justify="left", header_style="bold")
        for i, name in enumerate(header):
            table.add_column(name, overflow="fold", no_wrap=i < whole)
        for row in rows:
            table.add_row(*row)
        self.out().print(table)


def pairs(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return a mapping as rows of text."""
    return [(key, str(value)) for key, value in values.items()]

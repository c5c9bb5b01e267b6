"""How a comparison goes, on stderr: a bar for a person, one plain line a run otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sharpkit.cli.terminal import Terminal

if TYPE_CHECKING:
    from sharpkit.commands.pool import Failure
    from sharpkit.engine.cells import Cell


class CompareProgress:
    """Tells how many runs are done, running and left.

    Args:
        terminal: Decides between bars, lines and silence.
        total: How many runs there are.
        left: Those that are not finished.
    """

    def __init__(self, terminal: Terminal, total: int, left: Sequence[Cell]) -> None:
        self._terminal = terminal
        self._left = {cell.name: cell for cell in left}
        self._all = total
        self._epochs = {name: cell.config.epochs for name, cell in self._left.items()}
        self._done: dict[str, float] = dict.fromkeys(self._left, 0.0)
        self._running: set[str] = set()
        self._finished = self._all - len(self._left)
        self._failed = 0
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> CompareProgress:
        if self._finished:
            self.note(f"{self._finished} of {self._all} runs are finished already")
        if self._terminal.bars and self._left:
            self._bar = Progress(
                TextColumn("{task.fields[values]}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("left"),
                console=self._terminal.err(),
            )
            self._task = self._bar.add_task("", total=float(sum(self._epochs.values())), values="")
            self._bar.start()
            self._show()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, cell: Cell, epoch: float) -> None:
        """Count a run as running."""
        self._running.add(cell.name)
        self._done[cell.name] = epoch
        if epoch:
            self.note(f"going on with {cell.name} after epoch {epoch:g}")
        self._show()

    def epoch(self, cell: Cell, epoch: int) -> None:
        """Move the bar."""
        self._done[cell.name] = float(epoch)
        self._show()

    def end(self, cell: Cell, failure: Failure | None) -> None:
        """Count a run as done or failed."""
        self._running.discard(cell.name)
        self._done[cell.name] = float(self._epochs.get(cell.name, 0))
        self._failed += failure is not None
        self._finished += failure is None
        if failure is not None:
            self.note(f"failed: {cell.name}: {failure.message}")
        elif self._bar is None:
            self._terminal.say(f"{self._finished}/{self._all} {cell.label}, seed {cell.seed}{_told(cell)}")
        self._show()

    def note(self, text: str) -> None:
        """Write a line above the bar."""
        if self._bar is not None:
            self._bar.console.print(text, style="dim", markup=False)
        else:
            self._terminal.say(text)

    def _show(self) -> None:
        if self._bar is None or self._task is None:
            return
        left = self._all - self._finished - self._failed - len(self._running)
        failed = f", {self._failed} failed" if self._failed else ""
        values = f"{self._finished} of {self._all} runs done, {len(self._running)} running, {left} waiting{failed}"
        self._bar.update(self._task, completed=sum(self._done.values()), values=values)


def _told(cell: Cell) -> str:
    return "".join(f", {key} {value}" for key, value in cell.settings)

"""How a run goes, on stderr: a bar for a person, one plain line an epoch otherwise."""

from __future__ import annotations

import math
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sharpkit.cli.terminal import Terminal

if TYPE_CHECKING:
    from sharpkit.engine.session import Session


_WIDE = 100
"""Columns from which on the bar spells out everything; on 80 it leaves out units and the time elapsed."""


class TrainProgress:
    """Tells a person, or a log file, how a training run goes.

    Args:
        terminal: Decides between bars, lines and silence.
    """

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._narrow = False
        self._epochs = 0
        self._steps_per_epoch = 1
        self._samples = 0

    def __enter__(self) -> TrainProgress:
        if self._terminal.bars:
            console = self._terminal.err()
            self._narrow = console.width < _WIDE
            times = [TimeRemainingColumn(), TextColumn("left")]
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=8 if self._narrow else None),
                TextColumn("{task.percentage:>3.0f}%"),
                TextColumn("{task.fields[values]}"),
                *(times if self._narrow else [TimeElapsedColumn(), *times]),
                console=console,
                expand=not self._narrow,
            )
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, session: Session, step: int) -> None:
        """Show what is trained."""
        self._epochs, self._steps_per_epoch = session.config.epochs, session.steps_per_epoch
        config, splits = session.config, session.splits
        noise = f" ({splits.noisy_labels} labels replaced)" if splits.noisy_labels else ""
        weights = sum(p.numel() for p in session.optimizer.params)
        self.note(
            f"{config.opt} on {config.base}, lr {config.lr:g}: {config.model} ({weights:,} parameters), {config.data} "
            f"({len(splits.train)} training{noise}, {len(splits.val)} validation, {len(splits.test)} test samples), "
            f"seed {config.seed}, {session.device}"
        )
        if step:
            self.note(f"going on after step {step} of {session.total_steps}")
        if self._bar is not None:
            self._task = self._bar.add_task("", total=session.total_steps, completed=step, values="")
            self._describe(step)

    def step(self, step: int, size: int) -> None:
        """Move the bar."""
        self._samples += size
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step)
            self._describe(step)

    def live(self, values: dict[str, float]) -> None:
        """Show loss, accuracy and %SAM of the epoch so far."""
        self._show(values["loss"], values["acc"], values["pct_sam"])

    def epoch(self, record: dict[str, Any]) -> None:
        """Show an epoch's numbers."""
        if self._bar is not None:
            self._show(record["train_loss"], record["train_acc"], record["pct_sam"], record["samples_per_s"])
            return
        self._terminal.say(
            f"epoch {record['epoch']}/{self._epochs}  loss {record['train_loss']:.4f}  {_judged(record)}"
            f"SAM {record['pct_sam']:.0f}%  "
            f"{record['samples_per_s']:,.0f} samples/s  {record['seconds']:.1f} s"
        )

    def note(self, text: str) -> None:
        """Write a line above the bar."""
        if self._bar is not None:
            self._bar.console.print(text, style="dim", markup=False)
        else:
            self._terminal.say(text)

    def _describe(self, step: int) -> None:
        assert self._bar is not None
        assert self._task is not None
        epoch = min(self._epochs, step // self._steps_per_epoch + 1)
        self._bar.update(self._task, description=f"{'' if self._narrow else 'epoch '}{epoch}/{self._epochs}")

    def _show(self, loss: float, accuracy: float, pct_sam: float, rate: float | None = None) -> None:
        if self._bar is None or self._task is None:
            return
        if rate is None:
            speed = self._bar.tasks[0].speed
            done = max(1, int(self._bar.tasks[0].completed))
            rate = (speed or 0.0) * self._samples / done
        hits = [f"acc {100 * accuracy:.1f}%"] if accuracy == accuracy else []
        parts = [f"loss {loss:.3f}", *hits, f"SAM {pct_sam:.0f}%"]
        parts.append(f"{rate:,.0f}/s" if self._narrow else f"{rate:,.0f} samples/s")
        self._bar.update(self._task, values=(" " if self._narrow else "  ").join(parts))


def _judged(record: dict[str, Any]) -> str:
    """Return an epoch's accuracies and other metrics, those that there are."""
    from sharpkit.engine.metrics import METRICS

    told = [
        f"{name} {100 * record[key]:.2f}%  "
        for name, key in (("acc", "train_acc"), ("val", "val_acc"))
        if record[key] == record[key]
    ]
    values = [(f"val {name}", record.get(f"val_{name}", math.nan)) for name in METRICS if name != "acc"]
    return "".join([*told, *(f"{name} {value:.4f}  " for name, value in values if value == value)])

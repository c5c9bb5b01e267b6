"""What a run measures while it trains: sums over an epoch and over the window since the last log line."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from sharpkit.core.report import StepReport
from sharpkit.core.task import Batch


@dataclass
class Records:
    """Losses and hits of the steps of an epoch; device values are read in one go, when somebody needs them.

    Everything but the values still on the device is plain numbers, so that a checkpoint in the middle of an epoch
    resumes with the same sums.
    """

    loss_sum: float = 0.0
    hits: float = 0.0
    seen: int = 0
    window: list[float] = field(default_factory=list[float])
    seconds: float = 0.0
    _waiting: list[tuple[int, int, bool, Tensor, Tensor]] = field(
        default_factory=list[tuple[int, int, bool, Tensor, Tensor]]
    )

    def add(self, step: int, report: StepReport, batch: Batch) -> None:
        """Note one step's report without waiting for the device."""
        assert report.outputs is not None
        hits = (report.outputs.argmax(1) == batch.targets).sum()
        self._waiting.append((step, batch.size, report.dropped, report.loss, hits))

    def collect(self) -> tuple[int, float] | None:
        """Read what is waiting; return step and value of the first loss that is not finite, if any."""
        if not self._waiting:
            return None
        losses = cast("list[float]", torch.stack([loss.float() for *_, loss, _ in self._waiting]).tolist())
        hits = cast("list[int]", torch.stack([h for *_, h in self._waiting]).tolist())
        waiting, self._waiting = self._waiting, []
        for (step, size, dropped, *_), loss, hit in zip(waiting, losses, hits, strict=True):
            if not math.isfinite(loss) and not dropped:
                return step, loss
            if not dropped:
                self.loss_sum += loss * size
                self.hits += hit
                self.seen += size
                self.window.append(loss)
        return None

    def mean_loss(self) -> float:
        """The mean loss of the epoch so far."""
        return self.loss_sum / self.seen if self.seen else math.nan

    def accuracy(self) -> float:
        """The fraction of the epoch's training samples that the clean pass got right."""
        return self.hits / self.seen if self.seen else math.nan

    def take_window(self) -> float:
        """Return the mean loss since the last call and start a new window."""
        mean = sum(self.window) / len(self.window) if self.window else math.nan
        self.window = []
        return mean

    def state_dict(self) -> dict[str, Any]:
        """Return the sums; nothing may be waiting."""
        return {
            "loss_sum": self.loss_sum,
            "hits": self.hits,
            "seen": self.seen,
            "window": list(self.window),
            "seconds": self.seconds,
        }

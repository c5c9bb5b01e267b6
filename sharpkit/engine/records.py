"""What a run measures while it trains: sums over an epoch and over the window since the last log line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from sharpkit.core.comm import ALONE, Comm
from sharpkit.core.report import StepReport
from sharpkit.core.task import Batch

NOTES = {
    "ascent_norm": "norm of the climbed vector",
    "epsilon_norm": "norm of the perturbation",
    "mask_density": "fraction of weights in the mask",
    "mask_churn": "fraction that changed with the last mask",
    "z_score": "z-score of the squared gradient norm",
    "age_of_v": "age of the reused direction, steps",
    "cosine": "cosine of q and the perturbed gradient",
}
"""What the steps of the recipes note, in a few words."""


@dataclass
class Means:
    """Running means of named values; a name may be missing from some steps."""

    sums: dict[str, float] = field(default_factory=dict[str, float])
    counts: dict[str, int] = field(default_factory=dict[str, int])

    def add(self, name: str, values: list[float]) -> None:
        """Take in the values that are finite."""
        finite = [value for value in values if math.isfinite(value)]
        if finite:
            self.sums[name] = self.sums.get(name, 0.0) + sum(finite)
            self.counts[name] = self.counts.get(name, 0) + len(finite)

    def values(self) -> dict[str, float]:
        """Return the means by name."""
        return {name: total / self.counts[name] for name, total in self.sums.items()}


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
    notes: Means = field(default_factory=Means)
    window_notes: Means = field(default_factory=Means)
    _waiting: list[Waiting] = field(default_factory=list["Waiting"])

    def add(self, step: int, report: StepReport, batch: Batch) -> None:
        """Note one step's report without waiting for the device."""
        assert report.outputs is not None
        if batch.targets.is_floating_point():  # there are no hits where a number is to be predicted
            hits = report.loss.new_full((), math.nan)
        else:
            hits = (report.outputs.argmax(1) == batch.targets).sum()
        self._waiting.append(Waiting(step, batch.count, report.dropped, report.loss, hits, report.notes))

    def collect(self, comm: Comm = ALONE) -> tuple[int, float] | None:
        """Read what is waiting; return step and value of the first loss that is not finite, if any.

        Args:
            comm: The processes that each step's batch lies on; their hits are added up.
        """
        if not self._waiting:
            return None
        waiting, self._waiting = self._waiting, []
        losses, hits = _read([w.loss for w in waiting]), _read([w.hits for w in waiting], comm)
        for one, loss, hit in zip(waiting, losses, hits, strict=True):
            if not math.isfinite(loss) and not one.dropped:
                return one.step, loss
            if not one.dropped:
                self.loss_sum += loss * one.size
                self.hits += hit
                self.seen += one.size
                self.window.append(loss)
        for name in dict.fromkeys(name for w in waiting for name in w.notes):
            values = _read([w.notes[name] for w in waiting if name in w.notes and not w.dropped])
            self.notes.add(name, values)
            self.window_notes.add(name, values)
        return None

    def mean_loss(self) -> float:
        """The mean loss of the epoch so far."""
        return self.loss_sum / self.seen if self.seen else math.nan

    def accuracy(self) -> float:
        """The fraction of the epoch's training samples that the clean pass got right; NaN for targets of no class."""
        return self.hits / self.seen if self.seen else math.nan

    def take_window(self) -> dict[str, float]:
        """Return the means of the loss and of what the steps noted since the last call, and start a new window."""
        mean = sum(self.window) / len(self.window) if self.window else math.nan
        notes = self.window_notes.values()
        self.window, self.window_notes = [], Means()
        return {"loss": mean, **notes}

    def next_epoch(self, seconds: float) -> Records:
        """Return the records of the next epoch, whose window goes on."""
        return Records(seconds=seconds, window=self.window, window_notes=self.window_notes)

    def state_dict(self) -> dict[str, Any]:
        """Return the sums; nothing may be waiting."""
        return {
            "loss_sum": self.loss_sum,
            "hits": self.hits,
            "seen": self.seen,
            "window": list(self.window),
            "seconds": self.seconds,
            "notes": asdict(self.notes),
            "window_notes": asdict(self.window_notes),
        }

    @staticmethod
    def of(state: dict[str, Any]) -> Records:
        """Return the records that `state_dict` stored."""
        notes, window_notes = Means(**state["notes"]), Means(**state["window_notes"])
        plain = {name: value for name, value in state.items() if name not in ("notes", "window_notes")}
        return Records(**plain, notes=notes, window_notes=window_notes)


@dataclass(frozen=True)
class Waiting:
    """What a step left on the device, until somebody reads it."""

    step: int
    size: int
    dropped: bool
    loss: Tensor
    hits: Tensor
    notes: Mapping[str, Tensor]


def _read(values: list[Tensor], comm: Comm = ALONE) -> list[float]:
    """Read 0-dim values of one device, or their sums over processes, at once."""
    if not values:
        return []
    stacked = torch.stack([v.double() for v in values])
    comm.sum_([stacked])
    return cast("list[float]", stacked.tolist())

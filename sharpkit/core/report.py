"""What a step did, and the sums over all steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sharpkit.core.point import Point
from sharpkit.core.step import Step
from sharpkit.core.work import Cost


@dataclass(frozen=True)
class StepReport:
    """What one step did. Tensors stay on the device until somebody reads them.

    `gradients` counts gradients of a whole batch; one of some of its samples counts as that part. `sequential`
    is the part of it that this process computed
    one after the other, `critical` what would remain with one device for every independent gradient.
    """

    loss: Tensor  # () clean mean loss of the batch
    perturbed: bool
    dropped: bool  # fp16 overflowed and the step was not taken
    forward_samples: int
    backward_samples: int
    gradients: float
    sequential: float
    critical: float
    outputs: Tensor | None = None  # (B, ...) of the clean pass; None from a closure
    notes: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])  # name -> ()


@dataclass
class Totals:
    """Host-side sums over all steps."""

    steps: int = 0
    perturbed: int = 0
    dropped: int = 0
    forward_samples: int = 0
    backward_samples: int = 0
    gradients: float = 0.0
    sequential: float = 0.0
    critical: float = 0.0

    def add(self, report: StepReport) -> None:
        """Count a step."""
        self.steps += 1
        self.perturbed += report.perturbed
        self.dropped += report.dropped
        self.forward_samples += report.forward_samples
        self.backward_samples += report.backward_samples
        self.gradients += report.gradients
        self.sequential += report.sequential
        self.critical += report.critical


def report_of(
    whole: Step, steps: Sequence[Step], clean: Point, cost: Cost, *, perturbed: bool, dropped: bool
) -> StepReport:
    """Return the report of a step from its shards and what they cost together.

    Args:
        whole: The step of the whole batch; with a single shard it is that shard's.
        steps: One a shard.
        clean: The clean pass of the whole batch, evaluated.
        cost: Of all shards.
        perturbed: Whether the step perturbed.
        dropped: Whether the step was not taken.
    """
    return StepReport(
        loss=clean.loss,
        perturbed=perturbed,
        dropped=dropped,
        forward_samples=round(cost.forward),
        backward_samples=round(cost.backward),
        gradients=cost.gradients,
        sequential=cost.gradients - sum(step.elsewhere for step in steps),
        critical=cost.gradients - sum(step.overlap for step in steps),
        outputs=clean.outputs,
        notes={**whole.notes, **_mean_notes(steps)},
    )


def _mean_notes(steps: Sequence[Step]) -> dict[str, Tensor]:
    """Return every note, averaged over the shards that took it."""
    taken: dict[str, list[Tensor]] = {}
    for step in steps:
        for name, value in step.notes.items():
            taken.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else torch.stack(values).mean() for name, values in taken.items()}

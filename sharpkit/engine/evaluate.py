"""Loss and metrics of a model on held-out samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sharpkit.core.comm import ALONE, Comm
from sharpkit.core.task import Task
from sharpkit.data.part import Part, Share
from sharpkit.engine.metrics import METRICS


@dataclass(frozen=True)
class Score:
    """Mean loss per sample and metrics; NaN without samples.

    Args:
        loss: The mean.
        accuracy: Fraction of samples classified right; NaN where the targets are no classes.
        named: What the data set is judged by, by name.
    """

    loss: float
    accuracy: float
    named: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def main(self) -> float:
        """The mean of what the data set is judged by: accuracy where it names nothing else."""
        values = list(self.named.values()) or [self.accuracy]
        return sum(values) / len(values)


def evaluate(
    model: nn.Module, task: Task, samples: Part, metrics: Sequence[str] = ("acc",), comm: Comm = ALONE
) -> Score:
    """Return loss and metrics in evaluation mode, every sample weighted alike.

    Args:
        model: Put into evaluation mode and back.
        task: Outputs and losses of the model.
        samples: Their batches are on the model's device.
        metrics: Names of `METRICS`.
        comm: The processes that share out the samples; all return the same.
    """
    count = len(samples)
    if count == 0:
        return Score(math.nan, math.nan, dict.fromkeys(metrics, math.nan))
    training = model.training
    model.eval()
    loss = torch.zeros((), device=next(model.parameters()).device)
    predicted: list[Tensor] = []
    targets: list[Tensor] = []
    try:
        with torch.no_grad():
            for batch in samples.batches(samples.whole(), share=Share(comm.rank, comm.size)):
                if batch.size:  # of several processes some may have none of a small batch
                    outputs = task.outputs(batch)
                    loss = loss + task.losses(outputs, batch).sum()
                    predicted.append(predictions(outputs, batch.targets))
                else:
                    predicted.append(batch.targets)
                targets.append(batch.targets)
                if batch.parts is not None:
                    predicted[-1], targets[-1] = (comm.gather(t, batch.parts) for t in (predicted[-1], targets[-1]))
    finally:
        model.train(training)
    comm.sum_([loss])
    found, right = torch.cat(predicted), torch.cat(targets)
    accuracy = math.nan if right.is_floating_point() else METRICS["acc"].function(found, right)
    named = {name: accuracy if name == "acc" else METRICS[name].function(found, right) for name in metrics}
    return Score(float(loss) / count, accuracy, named)


def predictions(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the likeliest classes of logits (B, C), or, where the targets are numbers, the outputs (B, 1), as (B,)."""
    return outputs[:, 0].to(targets.dtype) if targets.is_floating_point() else outputs.argmax(1)

"""Loss and accuracy of a model on held-out samples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from sharpkit.core.task import Batch, Task
from sharpkit.data.dataset import Samples

_CHUNK = 1024


@dataclass(frozen=True)
class Score:
    """Mean loss per sample and fraction of samples classified right; NaN without samples."""

    loss: float
    accuracy: float


def evaluate(model: nn.Module, task: Task, samples: Samples) -> Score:
    """Return loss and accuracy in evaluation mode, every sample weighted alike.

    Args:
        model: Put into evaluation mode and back.
        task: Outputs and losses of the model.
        samples: On the model's device.
    """
    count = len(samples)
    if count == 0:
        return Score(math.nan, math.nan)
    training = model.training
    model.eval()
    loss = torch.zeros((), device=samples.inputs.device)
    hits = torch.zeros((), device=samples.inputs.device)
    try:
        with torch.no_grad():
            for start in range(0, count, _CHUNK):
                rows = slice(start, start + _CHUNK)
                batch = Batch(samples.inputs[rows], samples.targets[rows])
                outputs = task.outputs(batch)
                loss += task.losses(outputs, batch).sum()
                hits += (outputs.argmax(1) == batch.targets).sum()
    finally:
        model.train(training)
    return Score(float(loss) / count, float(hits) / count)

"""Loss and accuracy of a model on held-out samples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from sharpkit.core.task import Task
from sharpkit.data.part import Part, in_order

_CHUNK = 1024
_NUMBERS = 2**25  # in the inputs of a chunk, at most, so that large images fit beside the model


@dataclass(frozen=True)
class Score:
    """Mean loss per sample and fraction of samples classified right; NaN without samples."""

    loss: float
    accuracy: float


def evaluate(model: nn.Module, task: Task, samples: Part) -> Score:
    """Return loss and accuracy in evaluation mode, every sample weighted alike.

    Args:
        model: Put into evaluation mode and back.
        task: Outputs and losses of the model.
        samples: Their batches are on the model's device.
    """
    count = len(samples)
    if count == 0:
        return Score(math.nan, math.nan)
    training = model.training
    model.eval()
    loss: torch.Tensor | float = 0.0
    hits: torch.Tensor | int = 0
    chunk = max(1, min(_CHUNK, _NUMBERS // max(1, math.prod(samples.shape))))
    try:
        with torch.no_grad():
            for batch in samples.batches(in_order(count, chunk)):
                outputs = task.outputs(batch)
                loss += task.losses(outputs, batch).sum()
                hits += (outputs.argmax(1) == batch.targets).sum()
    finally:
        model.train(training)
    return Score(float(loss) / count, float(hits) / count)

"""Batch-norm statistics of given samples at the current weights, in place of those stored."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm  # pyright: ignore[reportPrivateUsage]

from sharpkit.core.task import Batch, Task


def recompute(model: nn.Module, task: Task, batches: Sequence[Batch]) -> None:
    """Replace running means and variances by their means over batches, each weighted by its samples.

    One pass in training mode of the batch-norm layers alone, as torch.optim.swa_utils.update_bn makes it; that weighs a
    small last batch as much as the others.

    Args:
        model: In evaluation mode, and in it again at the end.
        task: Its outputs.
        batches: Of at least two samples each.
    """
    norms = [m for m in model.modules() if isinstance(m, BatchNorm) and m.running_mean is not None]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    seen = 0
    try:
        for norm in norms:
            norm.train()
            norm.reset_running_stats()
        with torch.no_grad():
            for batch in batches:
                seen += batch.size
                for norm in norms:
                    norm.momentum = batch.size / seen
                task.outputs(batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()

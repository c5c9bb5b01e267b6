"""Batch-norm statistics of given samples at the current weights, in place of those stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm  # pyright: ignore[reportPrivateUsage]

from sharpkit.core.comm import ALONE, Comm
from sharpkit.core.task import Batch, Task


def recompute(model: nn.Module, task: Task, batches: Sequence[Batch], comm: Comm = ALONE) -> None:
    """Replace running means and variances by their means over batches, each weighted by its samples.

    One pass in training mode of the batch-norm layers alone, as torch.optim.swa_utils.update_bn makes it; that weighs a
    small last batch as much as the others.

    Args:
        model: In evaluation mode, and in it again at the end.
        task: Its outputs.
        batches: Of at least two samples each; those of this rank.
        comm: The ranks whose batches count.
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
        _average_(norms, seen, comm)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()


def _average_(norms: Sequence[BatchNorm], seen: int, comm: Comm) -> None:
    """Replace the statistics by their means over the ranks, each weighted by its samples."""
    if comm.size == 1:
        return
    statistics = [cast("Tensor", b) for norm in norms for b in (norm.running_mean, norm.running_var)]
    share = seen / sum(comm.objects(seen))
    for statistic in statistics:
        statistic.mul_(share)
    comm.sum_(statistics)

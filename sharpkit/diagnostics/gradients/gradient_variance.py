"""E |g_B|^2, Var(g_B) and |grad L(D)|^2 at fixed weights, from one pass over batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sharpkit.core import vec
from sharpkit.core.still import Still
from sharpkit.core.task import Batch, LossFunction, Task
from sharpkit.core.vec import Vec
from sharpkit.diagnostics.gradients.gradient_norms import squared_norm
from sharpkit.diagnostics.gradients.modes import in_mode
from sharpkit.diagnostics.problem import BnMode
from sharpkit.errors import UsageError
from sharpkit.recipes.sam import sam

Watch = Callable[[int, int], bool]
"""`(done, of how many) -> go on?`"""


@dataclass(frozen=True)
class GradientVariance:
    """Moments of the stochastic gradient.

    Args:
        norm: E |g_B|^2 over the whole batches.
        variance: Var(g_B) = E |g_B|^2 - |G|^2, the trace of its covariance.
        full: |G|^2, G the gradient of the mean loss of all samples.
        batches: How many whole batches there were.
        exact: Whether they were the whole of the data; if not, `variance` and `full` are unbiased estimates, and `full`
            may be below zero.
    """

    norm: float
    variance: float
    full: float
    batches: int
    exact: bool


def gradient_variance(
    model: nn.Module,
    loss: LossFunction | Task,
    batches: Iterable[Any],
    *,
    exact: bool = True,
    bn_mode: BnMode = "train",
    watch: Watch | None = None,
    total: int = 0,
) -> GradientVariance:
    """Return E |g_B|^2, Var(g_B) and |grad L(D)|^2.

    Jiang et al. (2023), "An Adaptive Policy to Employ Sharpness-Aware Minimization", eq. (3), figures 1, 2 and 7.
    G is the mean of the batches' gradients, each sample weighing the same; with `bn_mode="train"` it is that of the
    loss with each batch's own statistics. A last batch that is smaller than the first counts in G alone.

    Args:
        model: On the device of the batches; comes back as it was.
        loss: `(outputs, targets, reduction="none") -> (B,)`, or a task.
        batches: `(inputs, targets)`, no sample twice.
        exact: Whether they hold all the samples that G is the gradient of; if not, they are a random part of them.
        bn_mode: `train` normalises with the statistics of every batch, as training does; `eval` with the stored ones.
        watch: Called after every batch.
        total: How many batches there are, for `watch`.

    Raises:
        UsageError: If there is no batch, or of a random part only one.
    """
    with in_mode(model, bn_mode):
        still = Still(model, loss, sam())
        mean: Vec = []
        squares, size, count = list[Tensor](), 0, 0
        for done, given in enumerate(batches, 1):
            batch = Batch.of(given)
            _, grad = still.gradient(batch)
            size = size or batch.size
            if batch.size == size:
                squares.append(squared_norm(grad))
            count += batch.size
            mean = vec.lerp(mean, grad, batch.size / count) if mean else vec.clone(grad)
            if watch is not None and not watch(done, total):
                return GradientVariance(math.nan, math.nan, math.nan, len(squares), False)
    if not squares or (not exact and len(squares) < 2):
        raise UsageError(
            f"there are {len(squares)} batches, at least {1 if exact else 2} are needed", "give more samples"
        )
    norm, full, n = float(torch.stack(squares).mean()), float(squared_norm(mean)), len(squares)
    if exact:
        return GradientVariance(norm, norm - full, full, n, True)
    variance = n / (n - 1) * (norm - full)
    return GradientVariance(norm, variance, full - variance / n, n, False)

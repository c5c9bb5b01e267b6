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
    """Moments of the gradient g_B of a batch of b samples, drawn without replacement as training draws it.

    Args:
        norm: E |g_B|^2.
        variance: Var(g_B) = E |g_B|^2 - |G|^2, the trace of its covariance.
        full: |G|^2, G the gradient of the mean loss of all N samples.
        batches: Number of batches of size b.
        exact: Whether the batches held all N samples. If not, all three are unbiased estimates, and `full` may be
            negative.
        population: N; None for an unlimited number, of which the batches are independent draws.
    """

    norm: float
    variance: float
    full: float
    batches: int
    exact: bool
    population: int | None = None


def gradient_variance(
    model: nn.Module,
    loss: LossFunction | Task,
    batches: Iterable[Any],
    *,
    exact: bool = True,
    population: int | None = None,
    bn_mode: BnMode = "train",
    watch: Watch | None = None,
    total: int = 0,
) -> GradientVariance:
    """Return E |g_B|^2, Var(g_B) and |grad L(D)|^2.

    Jiang et al. (2023), "An Adaptive Policy to Employ Sharpness-Aware Minimization", eq. (3), figures 1, 2 and 7.

    With all samples, E |g_B|^2 is the mean over the batches of size b and |G|^2 that of the mean gradient, each sample
    weighing the same. With n batches of size b out of N samples (Cochran, 1977, "Sampling Techniques", section 2.6),

        s^2 = 1 / (n - 1) sum_j |g_j - mean g|^2,    Var(g_B) = (1 - b / N) s^2,    |G|^2 = E |g_B|^2 - Var(g_B),

    because two disjoint batches have E <g_j, g_k> = |G|^2 - (b / N) E s^2. A smaller last batch has other moments, so
    it counts in G with `exact` and nowhere else. With `bn_mode="train"` G is the mean gradient of the loss with each
    batch's own statistics.

    Args:
        model: On the device of the batches; comes back as it was.
        loss: `(outputs, targets, reduction="none") -> (B,)`, or a task.
        batches: `(inputs, targets)` of one size, only the last may be smaller; no sample twice.
        exact: Whether they hold all N samples; if not, they are a random part of them.
        population: N, with `exact=False`. None takes an unlimited population: then G and the variance are those of the
            distribution that the samples are independent draws of, not those of a finite training set.
        bn_mode: `train` normalises with the statistics of every batch, as training does; `eval` with the stored ones.
        watch: Called after every batch.
        total: How many batches there are, for `watch`.

    Raises:
        UsageError: If there is no batch, or of a random part only one; if their sizes differ; if they hold more
            samples than the population.
    """
    with in_mode(model, bn_mode):
        still = Still(model, loss, sam())
        mean: Vec = []
        whole: Vec = []
        squares, sizes = list[Tensor](), list[int]()
        for done, given in enumerate(batches, 1):
            batch = Batch.of(given)
            _, grad = still.gradient(batch)
            sizes.append(batch.size)
            if batch.size == sizes[0]:
                squares.append(squared_norm(grad))
                whole = vec.lerp(whole, grad, 1 / len(squares)) if whole else vec.clone(grad)
            mean = vec.lerp(mean, grad, batch.size / sum(sizes)) if mean else vec.clone(grad)
            if watch is not None and not watch(done, total):
                return GradientVariance(math.nan, math.nan, math.nan, len(squares), False, population)
    _check_sizes(sizes, exact, population)
    norm, n = float(torch.stack(squares).mean()), len(squares)
    if exact:
        full = float(squared_norm(mean))
        return GradientVariance(norm, norm - full, full, n, True, sum(sizes))
    spread = n / (n - 1) * (norm - float(squared_norm(whole)))
    variance = spread if population is None else (1 - sizes[0] / population) * spread
    return GradientVariance(norm, variance, norm - variance, n, False, population)


def _check_sizes(sizes: list[int], exact: bool, population: int | None) -> None:
    """Refuse batches whose moments are not those of one batch size, or that cannot be of the population."""
    for number, size in enumerate(sizes[1:], 2):
        if size > sizes[0] or (size < sizes[0] and number < len(sizes)):
            raise UsageError(
                f"batch {number} has {size} samples and the first {sizes[0]}, allowed is one size but for a smaller "
                "last batch",
                "the moments of a gradient depend on the batch size",
            )
    whole = sum(size == sizes[0] for size in sizes)
    if whole < (1 if exact else 2):
        raise UsageError(f"there are {whole} batches, at least {1 if exact else 2} are needed", "give more samples")
    if population is not None and (sum(sizes) > population or (exact and sum(sizes) != population)):
        allowed = f"exactly {population}" if exact else f"at most {population}"
        raise UsageError(
            f"the batches hold {sum(sizes)} samples and population is {population}, allowed are {allowed}",
            "give no sample twice, and population as the number of all samples",
        )

"""Squared norms of stochastic gradients at fixed weights, and how near they are to a normal distribution."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sharpkit.core import randomness
from sharpkit.core.comm import ALONE, Comm
from sharpkit.core.still import Still
from sharpkit.core.task import Batch, LossFunction, Task
from sharpkit.core.vec import Vec
from sharpkit.diagnostics.casting import cast_batch
from sharpkit.diagnostics.gradients.adaptive import AeSamShare, ae_sam_share
from sharpkit.diagnostics.gradients.modes import in_mode
from sharpkit.diagnostics.gradients.normality import Normality, normality
from sharpkit.diagnostics.problem import BnMode
from sharpkit.diagnostics.reductions import wide
from sharpkit.diagnostics.sharing import gathered, require_alike, rounds, seed_of, unanimous
from sharpkit.errors import DivergedError, UsageError
from sharpkit.recipes.sam import sam

Watch = Callable[[int, int], bool]
"""`(done, of how many) -> go on?`"""


@dataclass(frozen=True)
class GradNormResult:
    """The squared norms of the gradients of random batches at fixed weights.

    Args:
        values: (n,); |grad L(B)|^2 of each batch, without weight decay, in the order of the batches.
        losses: (n,); L(B).
        samples: Samples a batch.
        population: How many samples the batches were drawn from, None where that is not known.
        parameters: P.
        lam1: AE-SAM's threshold at the end of a run.
        lam2: Its threshold at the beginning.
        delta: The weight of the past in its averages.
        seed: Of the simulated runs, and of the numbers that Shapiro and Wilk's test uses of more than 5,000.
        bn_mode: How batch norm normalised.
        dropout: Whether dropout acted.
        dtype: The type of the gradients; squares are added up in float64.
        seconds: Time for all of it.
        complete: Whether nothing was stopped before its end.
    """

    values: NDArray[np.float64]
    losses: NDArray[np.float64]
    samples: int
    population: int | None
    parameters: int
    lam1: float
    lam2: float
    delta: float
    seed: int
    bn_mode: BnMode
    dropout: bool
    dtype: str
    seconds: float
    complete: bool

    @cached_property
    def normality(self) -> Normality:
        """How near they are to a normal distribution."""
        return normality(self.values, seed=self.seed)

    @cached_property
    def share(self) -> AeSamShare:
        """On what share of the steps AE-SAM would perturb."""
        return ae_sam_share(self.values, self.lam1, self.lam2, self.delta, seed=self.seed)


def gradnorms(
    model: nn.Module,
    loss: LossFunction | Task,
    batches: Iterable[Any],
    *,
    lam1: float = -1.0,
    lam2: float = 1.0,
    delta: float = 0.9,
    bn_mode: BnMode = "train",
    dropout: bool = False,
    dtype: torch.dtype | None = None,
    accumulate: int = 1,
    seed: int = 0,
    population: int | None = None,
    total: int | None = None,
    watch: Watch | None = None,
    comm: Comm = ALONE,
) -> GradNormResult:
    """Return |grad L(B)|^2 of batches at the weights that the model holds.

    Jiang et al. (2023), "An Adaptive Policy to Employ Sharpness-Aware Minimization", figures 3, 8 and 9: 400 batches.

    Args:
        model: On the device of the batches; comes back as it was.
        loss: `(outputs, targets, reduction="none") -> (B,)`, or a task.
        batches: `(inputs, targets)`, all of one size, drawn at random.
        lam1: AE-SAM's threshold at the end of a run, in standard deviations.
        lam2: Its threshold at the beginning.
        delta: The weight of the past in its averages.
        bn_mode: `train` normalises with the statistics of every batch, as training does; `eval` with the stored ones.
        dropout: Whether dropout acts.
        dtype: torch.float64 computes in double precision; None in the model's type.
        accumulate: Micro-batches a batch is cut into.
        seed: Of dropout, for every batch anew, and of the simulated run of AE-SAM.
        population: How many samples the batches are drawn from, for the record.
        total: How many batches there are, where they do not say; None counts them.
        watch: Called after every batch, of several ranks after one of each.
        comm: Ranks that take the batches in turn. All are given the same model and batches, and return the same.

    Raises:
        UsageError: If there is no batch, or they are of different sizes.
        DivergedError: If a gradient is not finite.
    """
    start = time.perf_counter()
    if total is None:
        batches = list(batches)
        total = len(batches)
    with in_mode(model, bn_mode, dropout=dropout, dtype=dtype):
        still = Still(model, loss, sam(), accumulate=accumulate)
        device = still.params[0].device
        watch = unanimous(watch, comm, device)
        pairs, sizes, done = list[Tensor](), set[int](), 0
        for first, group in rounds(batches, comm.size):
            given = [Batch.of(batch) for batch in group]
            if first == 0:
                require_alike(model, given, comm)
            if comm.rank < len(given):
                randomness.seed(seed_of(seed, first + comm.rank))
                batch = given[comm.rank]
                mean, grad = still.gradient(batch if dtype is None else cast_batch(batch, dtype))
                square = squared_norm(grad)
                pairs.append(torch.stack([square, mean.to(square.dtype)]))
            sizes.update(batch.size for batch in given)
            done = first + len(given)
            if watch is not None and not watch(done, total):
                break
        table = gathered(pairs, torch.zeros(2, dtype=wide(device), device=device), done, comm)
        kind = str(still.params[0].dtype).removeprefix("torch.")
    if len(sizes) != 1:
        given = "there is no batch" if not sizes else f"batches have {min(sizes)} to {max(sizes)} samples"
        raise UsageError(f"{given}, allowed are some of one size", "the norm depends on the size")
    values = table.cpu().numpy().astype(np.float64)
    if not np.isfinite(values).all():
        raise DivergedError("a gradient is not finite", "give a model that has not diverged")
    return GradNormResult(
        values=values[:, 0],
        losses=values[:, 1],
        samples=sizes.pop(),
        population=population,
        parameters=sum(p.numel() for p in still.params),
        lam1=lam1,
        lam2=lam2,
        delta=delta,
        seed=seed,
        bn_mode=bn_mode,
        dropout=dropout,
        dtype=kind,
        seconds=time.perf_counter() - start,
        complete=done == total,
    )


def squared_norm(v: Vec) -> Tensor:
    """Return |v|^2 over all tensors jointly, (), added up in double precision; nothing waits for the device."""
    kind = wide(v[0].device)
    return torch.stack([torch.sum(t * t, dtype=kind) for t in v]).sum()

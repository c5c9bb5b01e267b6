"""How much a rule's perturbation changes the gradient: r = log(|g_SAM - g_SGD| / |g_SGD|) per parameter."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sharpkit.core import randomness, vec
from sharpkit.core.base import layer_of
from sharpkit.core.comm import ALONE, Comm
from sharpkit.core.rule import Rule
from sharpkit.core.step import Draw
from sharpkit.core.still import Look, Still
from sharpkit.core.task import Batch, LossFunction, Task
from sharpkit.diagnostics.casting import cast_batch
from sharpkit.diagnostics.gradients.modes import in_mode
from sharpkit.diagnostics.gradients.relative import Counter, Grid, Tally
from sharpkit.diagnostics.problem import BnMode
from sharpkit.diagnostics.reductions import wide
from sharpkit.diagnostics.sharing import gathered, require_alike, rounds, seed_of, spread, unanimous
from sharpkit.errors import DivergedError, UsageError, check_range
from sharpkit.recipes.grammar import parse

Watch = Callable[[int, int], bool]
"""`(done, of how many) -> go on?`"""

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class TensorDifference:
    """What was counted of one parameter tensor.

    Args:
        name: The parameter's.
        kind: Its module's class and its name there, as `Conv2d.weight`.
        tally: The counts.
    """

    name: str
    kind: str
    tally: Tally


@dataclass(frozen=True)
class GradDiffResult:
    """The distribution of r over parameters and batches.

    Args:
        rule: The recipe, with every hyperparameter.
        total: Over all tensors.
        tensors: Of every parameter tensor; they add up to the total.
        grid: The bins, in natural logarithms.
        fractions: (batches,); the fraction of r < 0 in every batch.
        cosines: (batches,); of the two gradients.
        clean_norms: (batches,); |g_SGD|.
        perturbed_norms: (batches,); |g_SAM|.
        difference_norms: (batches,); |g_SAM - g_SGD|.
        loss: The mean loss of the batches at w.
        samples: Samples a batch.
        parameters: P.
        eps: Entries with |g_SGD| at most this are excluded.
        bn_mode: How batch norm normalised.
        dropout: Whether dropout acted, with the same masks for both gradients.
        dtype: The type of the gradients.
        seconds: Time for all of it.
        complete: Whether nothing was stopped before its end.
    """

    rule: str
    total: Tally
    tensors: tuple[TensorDifference, ...]
    grid: Grid
    fractions: NDArray[np.float64]
    cosines: NDArray[np.float64]
    clean_norms: NDArray[np.float64]
    perturbed_norms: NDArray[np.float64]
    difference_norms: NDArray[np.float64]
    loss: float
    samples: int
    parameters: int
    eps: float
    bn_mode: BnMode
    dropout: bool
    dtype: str
    seconds: float
    complete: bool

    @property
    def batches(self) -> int:
        """How many batches were looked at."""
        return len(self.fractions)

    @property
    def error(self) -> float:
        """The standard error of the fraction of r < 0 over the batches; NaN for a single one."""
        count = self.batches
        return float(self.fractions.std(ddof=1) / math.sqrt(count)) if count > 1 else math.nan

    @property
    def quantiles(self) -> dict[float, float]:
        """The 5, 25, 50, 75 and 95 % quantiles of r, to the width of a fine bin."""
        return {q: self.total.quantile(q, self.grid) for q in QUANTILES}

    def by_kind(self) -> dict[str, Tally]:
        """Return the counts by kind of parameter."""
        return _added((t.kind, t.tally) for t in self.tensors)

    def by_layer(self) -> dict[str, Tally]:
        """Return the counts by layer: by the module that holds the parameters."""
        return _added((layer_of(t.name), t.tally) for t in self.tensors)


def graddiff(
    model: nn.Module,
    loss: LossFunction | Task,
    batches: Iterable[Any],
    rule: str | Rule = "sam:rho=0.1",
    *,
    grid: Grid | None = None,
    eps: float = 0.0,
    bn_mode: BnMode = "train",
    dropout: bool = False,
    dtype: torch.dtype | None = None,
    accumulate: int = 1,
    seed: int = 0,
    draw: Draw | None = None,
    total: int | None = None,
    watch: Watch | None = None,
    comm: Comm = ALONE,
) -> GradDiffResult:
    """Return the distribution of r = log(|g_SAM - g_SGD| / |g_SGD|) over the parameters.

    g_SGD is the gradient of a batch at the weights, g_SAM that of the same batch at the point that the rule perturbs
    them to. Mi et al. (2022), "Make Sharpness-Aware Minimization Stronger: A Sparsified Perturbation Approach",
    section 3.2 and figure 1, whose logarithm has no base given; ours is the natural one.

    Args:
        model: On the device of the batches; comes back as it was.
        loss: `(outputs, targets, reduction="none") -> (B,)`, or a task.
        batches: `(inputs, targets)`; every one has a pair of gradients of its own.
        rule: A recipe string or a rule, of which the perturbation is used.
        grid: The bins.
        eps: Entries with |g_SGD| at most this are excluded, beside those that are zero or denormal.
        bn_mode: `train` normalises with the statistics of every batch, as training does; `eval` with the stored ones.
        dropout: Whether dropout acts; both gradients have the same masks.
        dtype: torch.float64 computes in double precision; None in the model's type.
        accumulate: Micro-batches a batch is cut into.
        seed: Of the rule's own random choices, and of dropout, for every batch anew.
        draw: `(count, generator) -> (inputs, targets)`, training samples for rules that look at more than the batch.
        total: How many batches there are, where they do not say; None counts them.
        watch: Called after every batch, of several ranks after one of each.
        comm: Ranks that take the batches in turn, or share the samples of a single one. All are given the same model
            and batches, and return the same.

    Raises:
        UsageError: If a value is not allowed, or the rule has no perturbation of its own.
        DivergedError: If a gradient is not finite.
    """
    start = time.perf_counter()
    check_range("eps", eps, 0)
    if total is None:
        batches = list(batches)
    expected = len(batches) if isinstance(batches, list) else total or 0
    grid = grid or Grid()
    with in_mode(model, bn_mode, dropout=dropout, dtype=dtype):
        parsed = parse(rule) if isinstance(rule, str) else rule
        device = next(model.parameters()).device
        watch = unanimous(watch, comm, device)
        turns, within = comm, ALONE
        if expected == 1 and not dropout and (parsed.shards or 1) == 1:
            (single,) = [Batch.of(batch) for batch in batches]
            require_alike(model, [single], comm)
            batch, accumulate = spread(single, accumulate, comm, whole=bn_mode == "train")
            batches, turns, within = [batch], ALONE, comm
        still = Still(model, loss, parsed, accumulate=accumulate, seed=seed, draw=draw, comm=within)
        counter = Counter(len(still.params), grid, eps, device)
        before, rows, samples, done = counter.negatives, list[Tensor](), 0, 0
        for first, group in rounds(batches, turns.size):
            given = [Batch.of(batch) for batch in group]
            if first == 0:
                require_alike(model, given, turns)
            samples = max(samples, *(batch.count for batch in given))
            if turns.rank < len(given):
                number, batch = first + turns.rank, given[turns.rank]
                randomness.seed(seed_of(seed, number))
                still.reseed(seed_of(seed, number))
                look = still.look(batch if dtype is None else cast_batch(batch, dtype))
                counter.add(look.grad, look.perturbed)
                now = counter.negatives
                rows.append(torch.cat([(now - before).to(wide(now.device)), _sizes(look)]))
                before = now
            done = first + len(given)
            if watch is not None and not watch(done, expected):
                break
        counter.sum(turns)
        tallies, bad = counter.read()
        table = gathered(rows, torch.zeros(7, dtype=wide(device), device=device), done, turns).cpu().numpy()
        kinds = [
            f"{type(owner).__name__}.{name.rpartition('.')[2]}"
            for name, owner in zip(still.names, still.owners, strict=True)
        ]
        kind = str(still.params[0].dtype).removeprefix("torch.")
    if not done:
        raise UsageError("there is no batch, at least one is needed", "give a list of (inputs, targets)")
    if bad:
        raise DivergedError(f"{bad} entries of the gradients are not finite", "give a model that has not diverged")
    with np.errstate(invalid="ignore"):
        fractions = table[:, 0] / table[:, 1]
    return GradDiffResult(
        rule=still.rule.text or still.rule.name,
        total=reduce(add, tallies),
        tensors=tuple(TensorDifference(*each) for each in zip(still.names, kinds, tallies, strict=True)),
        grid=grid,
        fractions=fractions,
        cosines=table[:, 6],
        clean_norms=table[:, 3],
        perturbed_norms=table[:, 4],
        difference_norms=table[:, 5],
        loss=float(table[:, 2].mean()),
        samples=samples,
        parameters=sum(p.numel() for p in still.params),
        eps=eps,
        bn_mode=bn_mode,
        dropout=dropout,
        dtype=kind,
        seconds=time.perf_counter() - start,
        complete=done == expected,
    )


def _sizes(look: Look) -> Tensor:
    """Return loss, |g|, |h|, |h - g| and the cosine of g and h, (5,), on the device."""
    apart = vec.norm(vec.sub(look.perturbed, look.grad))
    values = (look.loss, vec.norm(look.grad), vec.norm(look.perturbed), apart, vec.cosine(look.grad, look.perturbed))
    return torch.stack([v.to(wide(v.device)) for v in values])


def _added(named: Iterable[tuple[str, Tally]]) -> dict[str, Tally]:
    sums: dict[str, Tally] = {}
    for name, tally in named:
        sums[name] = sums[name] + tally if name in sums else tally
    return sums

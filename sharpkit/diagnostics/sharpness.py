"""How much the loss rises around the weights: at worst, on average, and at worst for every few samples."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sharpkit.core.comm import ALONE, Comm
from sharpkit.core.point import Point
from sharpkit.core.rule import Rule
from sharpkit.core.shape import offset
from sharpkit.core.still import Still
from sharpkit.core.task import LossFunction, Task, joined
from sharpkit.diagnostics.ascent import Ball, climb, mean
from sharpkit.diagnostics.intervals import half_width
from sharpkit.diagnostics.problem import BnMode, Problem, opened
from sharpkit.diagnostics.reductions import wide
from sharpkit.diagnostics.sharing import gathered, rounds, spread, unanimous
from sharpkit.errors import DivergedError, check_range
from sharpkit.recipes.grammar import parse

Watch = Callable[[int, int], bool]
"""`(gradients and losses done, of how many at most) -> go on?`"""


@dataclass(frozen=True)
class Estimate:
    """A mean rise of the loss with its standard error, NaN where there is none.

    Args:
        value: The mean.
        error: Its standard error.
        count: Number of values that it is the mean of: samples, directions or pieces.
    """

    value: float
    error: float
    count: int = 0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval by Student's t; NaN where there is no standard error."""
        width = half_width(self.error, self.count)
        return self.value - width, self.value + width


@dataclass(frozen=True)
class SharpnessResult:
    """Rises of the loss in the ball |T^-1 e| <= rho around the weights.

    Args:
        rule: The recipe that says metric, masks and radius.
        radius: rho.
        one_step: L(w + e) - L(w) at the perturbation of one step of the recipe, a lower bound of the largest rise in
            the ball; the error is over the samples.
        ascent: The largest rise that projected ascent found, over all starts: a lower bound too, never below the one
            above. The error is that of the mean over the samples at the point that was found.
        starts: (restarts + 1,); what each start found: the weights, then random points.
        average: The mean rise over random directions at distance rho; the error is over the directions.
        directions: (k,); the rise in each of them.
        m_sharpness: The mean over disjoint pieces of m samples of the largest rise found of a piece's own loss, a lower
            bound; the error is over the pieces. None where it was not asked for.
        m: Samples a piece.
        m_steps: Gradients of the ascent for a piece.
        steps: Gradients of the ascent from a start, at most.
        loss: L(w).
        samples: N.
        parameters: P.
        gradients: Gradients of all samples that were computed.
        bn_mode: How batch norm normalised.
        dtype: The type of the weights; losses are averaged in float64.
        seconds: Time for all of it.
        complete: Whether nothing was stopped before its end.
        notes: What a reader should know.
    """

    rule: str
    radius: float
    one_step: Estimate
    ascent: Estimate
    starts: NDArray[np.float64]
    average: Estimate
    directions: NDArray[np.float64]
    m_sharpness: Estimate | None
    m: int
    m_steps: int
    steps: int
    loss: float
    samples: int
    parameters: int
    gradients: float
    bn_mode: BnMode
    dtype: str
    seconds: float
    complete: bool
    notes: tuple[str, ...] = ()


class _Stopped(Exception):  # noqa: N818
    """Somebody does not want to go on."""


class _Work:
    """Counts what is done, and asks whether to go on."""

    def __init__(self, total: int, watch: Watch | None) -> None:
        self.done, self._total, self._watch = 0, total, watch

    def one(self, count: int = 1) -> bool:
        self.done += count
        return self._watch is None or self._watch(self.done, self._total)

    def check(self, count: int = 1) -> None:
        if not self.one(count):
            raise _Stopped


def sharpness(
    model: nn.Module,
    loss: LossFunction | Task,
    batches: Iterable[Any],
    rule: str | Rule = "sam",
    *,
    steps: int = 20,
    restarts: int = 1,
    directions: int = 20,
    m: int | None = None,
    m_steps: int = 1,
    bn_mode: BnMode = "eval",
    dtype: torch.dtype | None = None,
    seed: int = 0,
    watch: Watch | None = None,
    comm: Comm = ALONE,
) -> SharpnessResult:
    """Return how much the mean loss L of the samples rises within a distance rho of the weights.

    Worst case max_{|T^-1 e| <= rho} L(w + e) - L(w), of which lower bounds are found: Foret et al. (2021),
    "Sharpness-Aware Minimization for Efficiently Improving Generalization", eq. (1), with T = I; Kwon et al. (2021),
    "ASAM", eq. (3), with T = |w| + eta, which for eta = 0 does not change where weights are rescaled and the network is
    not. m-sharpness: Foret et al., section 4.1. Average: E L(w + rho T u) - L(w), u uniform on the unit sphere.

    Args:
        model: On the device of the batches; comes back as it was.
        loss: `(outputs, targets, reduction="none") -> (B,)`, or a task.
        batches: `(inputs, targets)`; a pass is made in as many pieces, and every sample weighs the same.
        rule: A recipe string or a rule that says metric, masks and radius: `sam:rho=0.05`, `asam:rho=0.5`.
        steps: Gradients of the ascent from a start, at most.
        restarts: Starts at random points of the sphere, beside the one at the weights.
        directions: Random directions; 0 leaves the average out.
        m: Samples a piece of m-sharpness; None leaves it out.
        m_steps: Gradients of the ascent for a piece; 1 is one step of the recipe.
        bn_mode: `eval` normalises with the stored statistics, `train` with those of every batch.
        dtype: torch.float64 computes in double precision; None in the model's type.
        seed: Of random points, directions and pieces.
        watch: Called after every gradient and every loss.
        comm: Ranks that share the samples of every gradient and loss, and take the pieces of m-sharpness in turn. All
            are given the same model and batches, and return the same.

    Raises:
        UsageError: If a value is not allowed.
        InputError: If two evaluations of the loss differ.
        DivergedError: If the loss at a perturbed point is not finite.
    """
    for name, value, low in (("steps", steps, 1), ("m-steps", m_steps, 1), ("restarts", restarts, 0)):
        check_range(name, value, low)
    check_range("directions", directions, 0)
    if m is not None:
        check_range("m", m, 1)
    parsed = parse(rule) if isinstance(rule, str) else rule
    start = time.perf_counter()
    with opened(model, loss, batches, bn_mode=bn_mode, dtype=dtype, comm=comm) as problem:
        rows = [] if m is None else pieces(problem.samples, m, seed)
        found, complete = _Measurement(problem, parsed, seed), True
        most = 2 + (steps + 2) * (1 + restarts) + directions + len(rows)
        work = _Work(most, unanimous(watch, comm, problem.device))
        try:
            found.worst(steps, restarts, work)
            found.average(directions, work)
            if rows:
                found.by_pieces(rows, m_steps, work)
        except _Stopped:
            complete = False
        losses = found.losses(found.step.here)
        ascent = Estimate(math.nan, math.nan) if found.highest is None else rise(losses, found.highest)
        values = [*found.starts, *found.rises, *found.of_pieces, ascent.value]
        if not all(math.isfinite(v) for v in values):
            raise DivergedError("the loss at a perturbed point is not finite", "lower --rho")
        return SharpnessResult(
            rule=found.rule.text or found.rule.name,
            radius=found.radius,
            one_step=found.one or ascent,
            ascent=ascent,
            starts=np.array(found.starts),
            average=_averaged(found.rises),
            directions=np.array(found.rises),
            m_sharpness=None if m is None else _averaged(found.of_pieces),
            m=m or 0,
            m_steps=m_steps,
            steps=steps,
            loss=mean(losses),
            samples=problem.samples,
            parameters=sum(p.numel() for p in found.still.params),
            gradients=found.gradients,
            bn_mode=problem.bn_mode,
            dtype=str(found.still.params[0].dtype).removeprefix("torch."),
            seconds=time.perf_counter() - start,
            complete=complete,
            notes=problem.notes,
        )


class _Measurement:
    """What has been found so far, so that there is something to tell when somebody stops it."""

    def __init__(self, problem: Problem, rule: Rule, seed: int) -> None:
        self._problem, self._seed = problem, seed
        self.whole = joined(problem.batches)
        here, pieces = spread(self.whole, len(problem.batches), problem.comm, whole=problem.bn_mode == "train")
        self.still = self._still(rule, pieces, problem.comm)
        self.rule = self.still.rule
        self.generator = torch.Generator().manual_seed(seed)
        self.gradients = 0.0
        self.radius = math.nan
        self.one: Estimate | None = None
        self.highest: Tensor | None = None  # (N,) losses where their mean is the highest
        self.starts = list[float]()
        self.rises = list[float]()
        self.of_pieces = list[float]()
        self.step = self.still.step(here)

    def _still(self, rule: Rule, accumulate: int, comm: Comm = ALONE) -> Still:
        problem = self._problem
        return Still(problem.model, problem.task, rule, accumulate=accumulate, seed=self._seed, comm=comm)

    def losses(self, point: Point) -> Tensor:
        """Return the losses of all samples at a point, (N,)."""
        return self.step.gathered(point.losses)

    def worst(self, steps: int, restarts: int, work: _Work) -> None:
        """Find the rise by one step and by ascent from every start."""
        ball = Ball.of(self.rule, self.step)
        self.radius = ball.radius
        before = self.losses(self.step.here)
        there = self.step.at(offset(self.rule, self.step)).forward()
        self.gradients += 1
        self.highest = self.losses(there)
        self.one, most = rise(before, self.highest), mean(self.highest)
        work.check()
        for k in range(restarts + 1):
            start = ball.at_random(self.step.params, self.generator) if k else None
            climbed = climb(self.step, ball, steps, start, work.one)
            self.gradients += climbed.gradients + (k > 0)
            self.starts.append(climbed.loss - mean(before))
            if climbed.loss > most:
                self.highest, most = self.losses(climbed.point), climbed.loss
            work.check()

    def average(self, directions: int, work: _Work) -> None:
        """Find the rise in random directions."""
        ball, before = Ball.of(self.rule, self.step), mean(self.losses(self.step.here))
        for _ in range(directions):
            there = self.step.at(ball.times(ball.at_random(self.step.params, self.generator))).forward()
            self.rises.append(mean(self.losses(there)) - before)
            work.check()

    def by_pieces(self, rows: list[Tensor], steps: int, work: _Work) -> None:
        """Find the largest rise of every piece's own loss."""
        most = max(batch.size for batch in self._problem.batches)
        still = self._still(self.rule, max(-(-len(r) // most) for r in rows))
        comm, device = self._problem.comm, self.still.params[0].device
        like = torch.zeros(2, dtype=wide(device), device=device)
        for _, group in rounds(rows, comm.size):
            here = list[Tensor]()
            if comm.rank < len(group):
                piece = self.whole.select(group[comm.rank].to(device))
                step = still.step((piece.inputs, piece.targets))
                climbed = climb(step, Ball.of(self.rule, step), steps)
                here = [like.new_tensor([climbed.loss - mean(step.here.losses), 1 + climbed.gradients])]
            found = cast("list[list[float]]", gathered(here, like, len(group), comm).tolist())
            for r, (raised, gradients) in zip(group, found, strict=True):
                self.gradients += gradients * len(r) / self.whole.size
                self.of_pieces.append(raised)
            work.check(len(group))


def pieces(samples: int, m: int, seed: int) -> list[Tensor]:
    """Return the rows of disjoint random pieces of m samples; fewer that are left over are left out, if others are."""
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(seed))
    rows = [order[start : start + m] for start in range(0, samples, m)]
    return [r for r in rows if len(r) == m] or rows


def rise(before: Tensor, after: Tensor) -> Estimate:
    """Return the mean of after - before, both (N,), with its standard error over the samples."""
    kind = wide(after.device)
    return _averaged(cast("list[float]", (after.to(kind) - before.to(kind)).tolist()))


def _averaged(values: list[float]) -> Estimate:
    if not values:
        return Estimate(math.nan, math.nan)
    many = len(values) > 1 and all(math.isfinite(v) for v in values)
    error = float(np.std(values, ddof=1) / math.sqrt(len(values))) if many else math.nan
    return Estimate(sum(values) / len(values), error, len(values))

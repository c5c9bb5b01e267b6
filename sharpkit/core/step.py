"""All that a part may see of the step it is asked about."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sharpkit.core import vec
from sharpkit.core.ahead import LookAhead, look_ahead
from sharpkit.core.buffers import Buffers
from sharpkit.core.comm import ALONE, Comm
from sharpkit.core.fisher import FisherMode
from sharpkit.core.independent import Asked, Independent, InTurn
from sharpkit.core.memory import Drawer, Memory
from sharpkit.core.oracle import Oracle
from sharpkit.core.pairs import as_real, as_stored
from sharpkit.core.passes import Objective, Role, Touched
from sharpkit.core.point import Joint, Point, restored
from sharpkit.core.slots import Mask
from sharpkit.core.task import Batch, sizes
from sharpkit.core.vec import Vec
from sharpkit.core.work import Work
from sharpkit.errors import UsageError

T = TypeVar("T")

Draw = Callable[[int, torch.Generator], Any]
"""`(count, generator) -> (inputs, targets)`: that many training samples."""


@dataclass(frozen=True)
class Clock:
    """Where in the run a step is.

    Args:
        step: The number of steps taken before this one.
        total_steps: The length of the run in steps, if known.
        steps_per_epoch: The length of an epoch in steps, if known.
    """

    step: int = 0
    total_steps: int | None = None
    steps_per_epoch: int | None = None

    @property
    def progress(self) -> float:
        """The fraction of the run that is done, from 0 to just under 1; 1 for steps beyond its length."""
        if self.total_steps is None:
            raise UsageError("the rule needs total_steps", "give SharpnessAware(..., total_steps=...)")
        return min(1.0, self.step / self.total_steps)

    @property
    def epoch(self) -> int:
        """The number of whole epochs before this step."""
        if self.steps_per_epoch is None:
            raise UsageError("the rule needs steps_per_epoch", "give SharpnessAware(..., steps_per_epoch=...)")
        return self.step // self.steps_per_epoch


@dataclass(frozen=True)
class ParameterGroups:
    """Parameters at fixed weights, which nothing steps: in place of a base optimizer, whose class imports the compiler.

    Args:
        param_groups: As those of `torch.optim.Optimizer`.
    """

    param_groups: list[dict[str, Any]]


@dataclass(frozen=True)
class Surroundings:
    """What stays the same from step to step."""

    model: nn.Module
    params: Sequence[Tensor]
    names: Sequence[str]
    base: Optimizer | ParameterGroups
    oracle: Oracle
    generator: torch.Generator
    owners: Sequence[nn.Module | None]
    masks: Sequence[Mask] = ()
    ascent_loss: Objective | None = None
    wants_clean: bool = False
    samples: int | None = None
    draw: Draw | None = None
    ranks: Comm = ALONE  # that the batch lies on
    across: Comm = ALONE  # the same where every rank climbs its own part's gradient
    pair: Comm = ALONE  # two ranks with the same samples
    independent: Independent | None = None  # how evaluations that do not depend on each other are made; None in turn


class Step:
    """One step of one shard, or of the whole batch: points to evaluate, memory, the clock, and a notebook.

    Args:
        around: Parameters, base optimizer, oracle and the rule's own random generator (the same on every rank).
        work: The shard's batch, or the closure.
        memory: What the rule remembers; `step.memory` is this shard's part of it, `step.shared` that of all shards.
        clock: Where in the run the step is.
        shard: The shard's number.
        shares: What part of the batch every shard is.
    """

    def __init__(
        self,
        around: Surroundings,
        work: Work,
        memory: Memory,
        clock: Clock,
        shard: int = 0,
        shares: Sequence[float] = (1.0,),
    ) -> None:
        self.params = as_real(around.params) if around.oracle.complex else around.params
        self.names = around.names
        self.owners = around.owners  # the module that each parameter belongs to, if the model has it
        self.generator = around.generator
        self.ascent_loss = around.ascent_loss  # None is the task's own
        self.wants_clean = around.wants_clean  # whether the clean gradient is wanted beside that of the ascent loss
        self.samples = around.samples  # the number of training samples, if known
        self.touched: list[Touched] | None = None  # where the climbed vector is needed; None is everywhere
        self.climbed: Vec | None = None  # what the ascent gave, before filter and shape
        self._once: dict[str, Any] = {}
        self.work = work
        self._kept = memory
        self.memory = Drawer(memory, shard)
        self.shared = Drawer(memory, "all")
        self.clock = clock
        self.shard = shard
        self.shares = shares  # of all shards, wherever they are
        self.own: Sequence[float] = shares  # of those here
        self.notes: dict[str, Tensor] = {}
        self.tallies: dict[str, Tensor] = {}
        self.overlap = 0.0  # gradients that could have run beside others
        self.elsewhere = 0.0  # gradients that did run beside others, on another rank
        self._around = around
        self.here = self._clean = Point(around.oracle, self.params, None, work, "clean")

    def cut(self, pieces: int) -> list[Step]:
        """Return the steps of the batch's shards that are here; of a single one this step itself.

        This step becomes the one of all shards: its clean point is their mean. Where every rank climbs for itself, its
        part of the batch is cut, and the shards are counted over all ranks.
        """
        across, parts = self._around.across, self.work.parts or [1] * self._around.across.size
        if across.size == 1:
            shards = self.work.split(pieces)
            if len(shards) == 1:
                return [self]
            every = [[shard.count for shard in shards]]
        else:
            pieces = min(pieces, *parts)
            every = [sizes(part, pieces) for part in parts]
            stands_for = sum(parts) / parts[across.rank]
            alone = replace(self.work, parts=None, whole=sum(parts), stands_for=stands_for)
            shards = alone.split(pieces)
        first, total = across.rank * len(shards), sum(map(sum, every))
        self.shares = [size / total for part in every for size in part]
        steps = [
            Step(self._around, work, self._kept, self.clock, i, self.shares) for i, work in enumerate(shards, first)
        ]  # fmt: skip
        self.own = self.shares[first : first + len(shards)]
        self.here = Joint([step.here for step in steps], self.own, across)
        return steps

    def at(self, offset: Vec | None, work: Work | None = None, *, clean: bool = False, extra: bool = False) -> Point:
        """Return the point w + offset on this step's batch or another, not yet evaluated.

        Args:
            offset: Aligned with `params`; None is w.
            work: What is evaluated there; None is this step's batch.
            clean: Whether this is the step's clean pass in place of `here`: it updates buffers and is reported.
            extra: Whether this is beside the step's perturbed pass, and never updates buffers.
        """
        role: Role = "clean" if clean else "extra" if extra else "perturbed"
        point = Point(self._around.oracle, self.params, offset, self.work if work is None else work, role)
        if clean:
            self._clean = point
        return point

    @property
    def clean(self) -> Point:
        """The step's clean point: `here`, unless a part named another."""
        return self.here if self.here.evaluated else self._clean

    def together(self, *asked: Asked) -> None:
        """Evaluate points that do not depend on each other: in turn, on two ranks or on two streams.

        Args:
            asked: `(point, objectives)`; every point then knows the gradients of its objectives.
        """
        independent = self._around.independent or InTurn(self._around.oracle)
        costs = independent.evaluate(asked)
        self.overlap += sum(costs) - max(costs)
        self.elsewhere += sum(costs) - max(sum(costs[i :: independent.places]) for i in range(independent.places))

    def look_ahead(self, direction: Vec, how: LookAhead = "peek", reached: Sequence[bool] | None = None) -> Vec:
        """Return y - w, where y is where the base optimizer would step from w along `direction`.

        Args:
            direction: Taken for the gradient.
            how: The base optimizer's own step, or plain gradient descent.
            reached: Which parameters `direction` has a gradient for; None is all.
        """
        base, params = self._around.base, self._around.params
        if isinstance(base, ParameterGroups):
            raise UsageError("at fixed weights no base optimizer can look ahead", "use a rule without a look-ahead")
        if not self._around.oracle.complex:
            return look_ahead(base, params, direction, how, reached)
        return as_real(look_ahead(base, params, as_stored(direction, params), how, reached))

    def once(self, key: str, make: Callable[[], T]) -> T:
        """Return what `make` gave when a part first asked in this step, so that parts share a draw."""
        if key not in self._once:
            self._once[key] = make()
        return self._once[key]

    def standing(self) -> list[bool]:
        """Return which parameters the masks that are the same on every step leave."""
        chosen = [flags for m in self._around.masks if m.standing and (flags := m.touched(self)) is not None]
        return [all(flags) for flags in zip(*chosen, strict=True)] if chosen else [True] * len(self.params)

    def training_samples(self, count: int) -> Batch:
        """Return samples drawn from the training data, or, where nobody said how to, the first ones of this batch.

        Several ranks share them out among them.
        """
        batch, ranks = self.batch(), self._around.ranks
        if self._around.draw is None:
            taken = _first(batch.parts or [batch.size], count)
            return batch.select_range(0, taken[ranks.rank], taken if ranks.size > 1 else None)
        drawn = Batch.of(self._around.draw(count, self.generator))
        drawn.whole = batch.whole or batch.count
        if ranks.size == 1:
            return drawn
        return drawn.part_of(ranks.rank, sizes(drawn.size, ranks.size))

    def squared_gradients(self, batch: Batch, mode: FisherMode = "eval") -> Vec:
        """Return the mean over samples of the squared gradient of a sample's loss, by parameter."""
        mean = self._around.oracle.squared_gradients(batch, mode)
        if batch.parts is not None:
            vec.scale_(mean, batch.size / batch.count)
            self._around.ranks.sum_(mean)
        self._around.pair.broadcast_(mean)
        return mean

    def gathered(self, rows: Tensor) -> Tensor:
        """Return something of this batch's samples, (B, ...), of those on all ranks, one rank after the other."""
        parts = self.work.parts
        return rows if parts is None else self._around.ranks.gather(rows, parts)

    def selected(self, rows: Tensor) -> Batch:
        """Return some of this batch's samples, given their positions (b,), ascending, as `gathered` counts them."""
        batch = self.batch()
        if batch.parts is None:
            return batch.select(rows)
        ends = list(itertools.accumulate(batch.parts, initial=0))
        found = torch.searchsorted(rows, rows.new_tensor(ends))
        cuts = cast("list[int]", found.tolist())  # waits for the device, as sizes must be known
        mine, start = self._around.ranks.rank, ends[self._around.ranks.rank]
        return batch.select(rows[cuts[mine] : cuts[mine + 1]] - start, [b - a for a, b in itertools.pairwise(cuts)])

    def pool(self, key: str, vector: Vec) -> None:
        """Keep under a key of `shared` the mean of what every shard gives, each with its share."""
        self._kept.pool(f"all/{key}", vec.weighted_sum([vector], [self.shares[self.shard]]))

    def of_first(self, tensor: Tensor) -> Tensor:
        """Return what the first shard gives, where all shards are to go by one."""
        self._around.across.broadcast_([tensor])
        return tensor

    def buffers(self) -> Vec:
        """Return a copy of the model's buffers."""
        return Buffers.of(self._around.model).copies

    def outputs_with(self, weights: Vec, buffers: Vec) -> Tensor:
        """Return what the model in evaluation mode says about the batch with other weights and buffers, detached."""
        own = Buffers.of(self._around.model)

        def run(_: Vec) -> Tensor:
            vec.copy_(self.params, weights)
            own.fill(buffers)
            return self._around.oracle.outputs(self.batch())

        try:
            outputs = restored(self.params, run)
        finally:
            own.put_back()
        self._around.pair.broadcast_([outputs])
        return outputs

    @property
    def lr_fraction(self) -> float:
        """The learning rate of the base optimizer's first group over its peak, from 0 to 1.

        The peak is what the scheduler says: `max_lr` or `initial_lr`; without one the rate is at its peak.
        """
        group = self._around.base.param_groups[0]
        rate = float(group["lr"])
        peak = float(group.get("max_lr", group.get("initial_lr", rate)))
        return min(1.0, rate / peak) if peak > 0 else 1.0

    def batch(self) -> Batch:
        """Return this step's batch.

        Raises:
            UsageError: If the step was given a closure.
        """
        if not isinstance(self.work, Batch):
            raise UsageError("this rule needs the batch itself, not a closure", "call opt.step((inputs, targets))")
        return self.work

    def note(self, name: str, value: Tensor) -> None:
        """Put a 0-dim value, still on the device, into the step's report."""
        self.notes[name] = value

    def tally(self, name: str, happened: Tensor) -> None:
        """Count a 0-dim boolean, still on the device, in the optimizer's counters."""
        self.tallies[name] = self.tallies[name].to(torch.int64) + happened if name in self.tallies else happened


def _first(parts: Sequence[int], count: int) -> list[int]:
    """Return how many of the first `count` samples each part has."""
    taken: list[int] = []
    for part in parts:
        taken.append(min(part, count - sum(taken)))
    return taken

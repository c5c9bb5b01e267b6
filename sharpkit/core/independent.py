"""Evaluations of one step that do not depend on each other: one after the other, or each on one of two ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from sharpkit.core import randomness
from sharpkit.core.buffers import Buffers
from sharpkit.core.comm import Comm
from sharpkit.core.message import DESCRIPTION, describe, described, pack, room, unpack
from sharpkit.core.oracle import Oracle
from sharpkit.core.passes import Objective
from sharpkit.core.point import Point
from sharpkit.core.randomness import RandomState
from sharpkit.core.vec import Vec
from sharpkit.core.work import Cost, Evaluation
from sharpkit.errors import UsageError

Asked = tuple[Point, Sequence[Objective | None]]
"""A point, and the objectives whose gradients are wanted there; None is the task's own loss."""

_CPU = torch.device("cpu")


class Independent(Protocol):
    """How such evaluations are made."""

    places: int
    """On how many ranks they run at once."""

    def evaluate(self, asked: Sequence[Asked]) -> list[float]:
        """Have every point know the gradients that it is asked for; return what each cost, in gradients of a batch."""
        ...


class InTurn:
    """One evaluation after the other.

    Args:
        oracle: Counts them.
    """

    def __init__(self, oracle: Oracle) -> None:
        self.places = 1
        self._oracle = oracle

    def evaluate(self, asked: Sequence[Asked]) -> list[float]:
        """Evaluate every point."""
        costs: list[float] = []
        for point, objectives in asked:
            before = self._oracle.cost.gradients
            point.gradients(*objectives)
            costs.append(self._oracle.cost.gradients - before)
        return costs


@dataclass
class Job:
    """One evaluation.

    Args:
        point: Where.
        missing: The objectives.
        first: Whether it is the first one of its batch, which draws the batch's random masks.
        keeps: Whether the model keeps the buffers that its forward pass leaves.
    """

    point: Point
    missing: list[Objective | None]
    first: bool
    keeps: bool


class OnPair:
    """Two evaluations at once, each on one of two ranks that have the same samples, and the results on both.

    Losses, outputs and gradients travel, the buffers of a pass whose buffers are kept, and, of a pass that draws masks,
    the random state that it leaves. So both ranks go on as one process that has made both evaluations in turn. One
    evaluation alone is made by the first rank, for replicas stay alike only where nothing is computed twice.

    Args:
        pair: The two ranks; a rank's number is which of two evaluations it makes.
        oracle: What evaluates.
        model: Holds the buffers.
        params: What gradients are aligned with.
    """

    def __init__(self, pair: Comm, oracle: Oracle, model: nn.Module, params: Sequence[Tensor]) -> None:
        self.places = 2
        self._pair = pair
        self._oracle = oracle
        self._model = model
        self._params = list(params)
        self._device = self._params[0].device
        self._one_device = all(p.device == self._device for p in self._params)

    def evaluate(self, asked: Sequence[Asked]) -> list[float]:
        """Evaluate two points at a time."""
        return [cost for i in range(0, len(asked), 2) for cost in self._both(asked[i : i + 2])]

    def _both(self, asked: Sequence[Asked]) -> list[float]:
        jobs = [self._job(point, objectives) for point, objectives in asked]
        if len({id(job.point.work) for job in jobs if job.first}) > 1:
            raise UsageError(
                "two batches are evaluated for the first time at once, where one draws its masks after the other",
                "leave the pair of ranks out",
            )
        mine, theirs = (jobs[i] if i < len(jobs) and jobs[i].missing else None for i in self._numbers())
        before = randomness.capture(self._device)
        evaluation = self._evaluated(mine)
        received = self._exchanged(mine, evaluation, theirs, before)
        costs: list[float] = []
        for job in jobs:
            result = evaluation if job is mine else received if job is theirs else None
            costs.append(self._settle(job, result))
        return costs

    def _numbers(self) -> tuple[int, int]:
        return self._pair.rank, 1 - self._pair.rank

    def _job(self, point: Point, objectives: Sequence[Objective | None]) -> Job:
        return Job(
            point, point.missing(objectives), self._oracle.draws(point.work), self._oracle.updates.keeps(point.role)
        )

    def _evaluated(self, job: Job | None) -> Evaluation | None:
        """Evaluate; it is counted later, so that both ranks count in the same order."""
        cost, self._oracle.cost = self._oracle.cost, Cost()
        try:
            return job.point.evaluate(job.missing) if job else None
        finally:
            self._oracle.cost = cost

    def _settle(self, job: Job, result: Evaluation | None) -> float:
        """Have the point know what was computed, and count it."""
        if result is None:
            return 0.0
        cost = self._oracle.cost.gradients
        self._oracle.credit(job.point.work, result)
        if job.keeps:
            self._oracle.updates.settle()
        job.point.fill(job.missing, result)
        return self._oracle.cost.gradients - cost

    def _exchanged(
        self, mine: Job | None, evaluation: Evaluation | None, theirs: Job | None, before: RandomState
    ) -> Evaluation | None:
        """Give the other rank what this one computed and return what that computed, with its buffers and random state.

        First, on the CPU, which shapes there are and where the gradients are zero; then the tensors themselves.
        """
        sent, notice = self._told(mine, evaluation) if mine and evaluation else (None, None)
        forms = self._notice_forms(theirs, before) if theirs else []
        heard = room(forms, _CPU) if theirs else None
        self._pair.swap_(notice, heard)
        if theirs is None or heard is None:
            self._pair.swap_(sent, None)
            return None
        notes, *drawn = unpack(heard, forms)
        numbers = cast("list[int]", notes.tolist())
        seen = [described(numbers[i * DESCRIPTION : (i + 1) * DESCRIPTION]) for i in range(3)]
        buffers = Buffers.of(self._model) if theirs.keeps else None
        grads = self._params * len(theirs.missing)
        like = [*(t for t in seen if t is not None), *grads, *(buffers.copies if buffers else ())]
        message = room(like, self._device)
        self._pair.swap_(sent, message)
        if drawn:
            after = randomness.from_tensors(drawn)
            theirs.point.work.randomness = randomness.only(before, after)
            randomness.restore(after, self._device)
        return self._read(unpack(message, like), seen, numbers, buffers)

    def _told(self, job: Job, evaluation: Evaluation) -> tuple[Tensor, Tensor]:
        """Return an evaluation as a message on the device, and on the CPU what its reader must know to read it."""
        seen = [evaluation.loss, evaluation.losses, evaluation.outputs]
        there = [t for t in seen if t is not None]
        buffers = Buffers.of(self._model).copies if job.keeps else []
        like = [*(torch.empty_like(t, device="meta", memory_format=torch.contiguous_format) for t in there)]
        like += [*self._params * len(job.missing), *buffers]
        sent = pack([*there, *(g for grads in evaluation.grads for g in grads), *buffers], like, self._device)
        numbers = [n for t in seen for n in describe(t)] + [int(flag) for flag in evaluation.reached]
        first = job.point.work.randomness if job.first else None
        drawn = [] if first is None else randomness.to_tensors(randomness.capture(self._device, first))
        notice = [torch.tensor(numbers), *drawn]
        return sent, pack(notice, notice, _CPU)

    def _notice_forms(self, job: Job, before: RandomState) -> Vec:
        numbers = torch.empty(3 * DESCRIPTION + len(self._params), dtype=torch.int64, device="meta")
        return [numbers, *(randomness.forms(before) if job.first else ())]

    def _read(
        self, tensors: Vec, seen: Sequence[Tensor | None], numbers: Sequence[int], buffers: Buffers | None
    ) -> Evaluation:
        rest = iter(tensors)
        loss, losses, outputs = (None if t is None else next(rest) for t in seen)
        values = list(rest)
        if buffers is not None:
            kept = len(buffers.copies)
            buffers.fill(values[len(values) - kept :])
            values = values[: len(values) - kept]
        size = len(self._params)
        grads = [self._placed(values[i : i + size]) for i in range(0, len(values), size)]
        assert loss is not None
        return Evaluation(loss, losses, outputs, grads, [bool(n) for n in numbers[3 * DESCRIPTION :]])

    def _placed(self, grads: Vec) -> Vec:
        """Return gradients each on its parameter's device."""
        if self._one_device:
            return grads
        return [g.to(p.device) for g, p in zip(grads, self._params, strict=True)]

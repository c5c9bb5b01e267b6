"""A rule's perturbation at weights that do not move: what diagnostics look at."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from sharpkit.core import vec
from sharpkit.core.base import owners, trainable
from sharpkit.core.comm import ALONE, Comm
from sharpkit.core.memory import Memory
from sharpkit.core.needs import check_needs
from sharpkit.core.oracle import Oracle
from sharpkit.core.parameters import check_parameters
from sharpkit.core.parts import completed
from sharpkit.core.precision import Precision
from sharpkit.core.rule import Rule
from sharpkit.core.shape import offset
from sharpkit.core.step import Clock, Draw, ParameterGroups, Step, Surroundings
from sharpkit.core.task import Batch, LossFunction, Task, as_task
from sharpkit.core.vec import Vec
from sharpkit.errors import UsageError

_ASKED = frozenset({"name", "ascent", "ascent_loss", "filter", "metric", "masks", "radius", "shards", "text"})
"""What makes the perturbation; when to perturb and what becomes of the two gradients is asked of nobody."""


@dataclass(frozen=True)
class Look:
    """The gradients of one batch at the weights and at the point that a rule perturbs them to."""

    loss: Tensor  # () mean loss at w
    grad: Vec  # at w
    perturbed: Vec  # at w + epsilon; of several shards the mean


class Still:
    """Gradients of batches at the weights that a model holds, and at the points that a rule perturbs them to.

    Of the rule only the perturbation is used: its ascent, filter, metric, masks, radius and shards, as on the first
    step of a run. Every pass sees the model in the mode that it is in. Nothing moves: weights, buffers and the rule's
    memory are the same after each look.

    Args:
        model: On the device of the batches.
        loss: `(outputs, targets, reduction="none") -> (B,)`, or a task.
        rule: The variant.
        accumulate: Micro-batches a batch is cut into.
        seed: Of the rule's own random choices.
        draw: `(count, generator) -> (inputs, targets)`, training samples for rules that look at more than the batch.
        comm: The ranks that a batch with `parts` lies on; gradients are those of all its samples.

    Raises:
        UsageError: If the rule does not perturb, or climbs what an earlier step left.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: LossFunction | Task,
        rule: Rule,
        *,
        accumulate: int = 1,
        seed: int = 0,
        draw: Draw | None = None,
        comm: Comm = ALONE,
    ) -> None:
        if rule.never:
            raise UsageError(f"{rule.name} never perturbs, so there is no second gradient", "use sam")
        self.rule = completed(replace(rule, **{f.name: f.default for f in fields(Rule) if f.name not in _ASKED}))
        check_needs(self.rule, {"past": None, "whole_batch": None if (self.rule.shards or 1) > 1 else True})
        trained = [p for p in model.parameters() if p.requires_grad]
        if not trained:
            raise UsageError("the model has no parameter that requires a gradient", "call requires_grad_() on some")
        base = ParameterGroups([{"params": trained, "lr": 1.0}])
        self.names, self.params = trainable(model, base)
        check_parameters(self.names, self.params, several=comm.size > 1)
        self.owners = owners(model, self.params)
        self._memory = Memory()
        self._oracle = Oracle(
            as_task(model, loss),
            model,
            self.params,
            comm=comm,
            precision=Precision("off", self.params[0].device),
            accumulate=accumulate,
            update_buffers=frozenset(),
        )
        self._around = Surroundings(
            model,
            self.params,
            self.names,
            base,
            self._oracle,
            torch.Generator().manual_seed(seed),
            self.owners,
            self.rule.masks,
            self.rule.ascent_loss,
            draw=draw,
            ranks=comm,
        )

    def reseed(self, seed: int) -> None:
        """Begin the rule's random choices anew."""
        self._around.generator.manual_seed(seed)

    def step(self, batch: Any) -> Step:
        """Return the step that a batch would be, shown to the masks; nothing is evaluated."""
        step = Step(self._around, Batch.of(batch), self._memory, Clock(0, 1, 1))
        for mask in self.rule.masks:
            mask.begin(step)
        return step

    def gradient(self, batch: Any) -> tuple[Tensor, Vec]:
        """Return the mean loss, (), and its gradient at w."""
        seen = self._oracle.evaluate(Batch.of(batch), "clean")
        return seen.loss, seen.grads[0]

    @torch.no_grad()
    def look(self, batch: Any) -> Look:
        """Return the gradients of a batch at w and at w + epsilon, with the same random masks."""
        try:
            whole = self.step(batch)
            steps = whole.cut(self.rule.shards or 1)
            grad = whole.here.grad  # before the ascent, which may want a part of it only
            perturbed = vec.weighted_sum([step.at(offset(self.rule, step)).grad for step in steps], whole.shares)
            return Look(whole.here.loss, grad, perturbed)
        finally:
            self._memory.roll_back()

"""The step that every variant takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sharpkit.core import vec
from sharpkit.core.accumulated import Accumulated, mark_as_used
from sharpkit.core.base import owners
from sharpkit.core.batch_norm import average_statistics_
from sharpkit.core.buffers import Buffers
from sharpkit.core.comm import ALONE, AscentScope, Comm
from sharpkit.core.independent import Independent, OnPair
from sharpkit.core.memory import Drawer
from sharpkit.core.needs import check_independent, check_needs, check_options
from sharpkit.core.oracle import Oracle
from sharpkit.core.pairs import as_stored
from sharpkit.core.parameters import check_initialised
from sharpkit.core.parts import completed
from sharpkit.core.passes import ROLES, BatchNormStatistics, Replay
from sharpkit.core.point import Joint, Point
from sharpkit.core.precision import Mode, Precision
from sharpkit.core.process_group import check_process_group, world_size
from sharpkit.core.radius import RadiusSchedule, scheduled
from sharpkit.core.replicas import check_alike
from sharpkit.core.report import StepReport, Totals, report_of
from sharpkit.core.rule import Rule
from sharpkit.core.shape import offset
from sharpkit.core.state import State
from sharpkit.core.step import Clock, Draw, Step, Surroundings
from sharpkit.core.streams import OnStreams
from sharpkit.core.task import Batch, LossFunction, Task, as_task
from sharpkit.core.trained_parameters import TrainedParameters, realigned
from sharpkit.core.vec import Vec
from sharpkit.core.work import Closure, Cost, Work
from sharpkit.errors import UsageError, check_range


class SharpnessAware:
    """Takes steps of a base optimizer with the gradient that a rule chooses.

    Every rule is asked the same questions: perturb on this step (gate)? which vector is climbed (ascent, filter)? how
    far and in which metric (shape)? which samples does the second gradient see (rows)? which gradient is handed on
    (descent)? The answers add up over the shards of the batch; the sum is clipped and the base optimizer steps with it.

    A step that raises or is interrupted before the base optimizer moves leaves weights, buffers, memory and the rule's
    random stream as they were.

    Args:
        model: The module that is trained; its buffers change in the passes that `bn_stats` names only.
        base: Any torch optimizer; it holds the parameters, and learning-rate schedulers attach to it.
        rule: The variant.
        loss: `(outputs, targets, reduction="none") -> (B,)` as in torch.nn.functional, or a `Task`.
        total_steps: The length of the run, for rules with a schedule.
        steps_per_epoch: The length of an epoch, for rules with a schedule.
        seed: Of the rule's own random choices.
        rng: `same` replays a batch's dropout masks in its later passes, `fresh` draws new ones.
        bn_stats: The passes whose batch-norm statistics are kept: `clean`, `perturbed` or `both`; those of the
            clean pass in a step without a perturbed one.
        clip: The largest norm of the gradient that is handed to the base optimizer; None for no clipping.
        accumulate: Micro-batches a batch is cut into; epsilon and gradients are those of the whole batch.
        precision: `off`, `bf16` or `fp16`.
        comm: The other ranks, each of which is given its part of the batch; a single process by default, which is
            refused where torch.distributed has a process group of several ranks.
        pair: Two ranks with the same samples, each of which computes one of the two gradients of a step that do not
            depend on each other, as `Ranks.pairs` makes them; `comm` is then the ranks that compute the same one.
        streams: Whether both are computed at once by this process, on two streams of its accelerator.
        ascent_scope: `global` climbs the gradient of the whole batch on all ranks, `local` every rank that of its own
            part, which is m-sharpness with a shard a rank.
        samples: The number of training samples, for rules that remember every one of them.
        draw: `(count, generator) -> (inputs, targets)`, training samples for rules that look at more than the batch.
        loss_decay: lambda of a weight decay lambda / 2 ||w||^2 that is part of the loss, hence of the perturbation,
            in place of the base optimizer's own; reported losses are without it.
        rho_schedule: `constant`, `with-lr` for rho_t = rho lr_t / lr_max, or `warm-up` for rho_t = rho min(1, (t + 1)
            / rho_warmup).
        rho_warmup: Steps of the warm-up.

    Raises:
        UsageError: If a value is out of range, or the rule needs something that is not given.
    """

    def __init__(
        self,
        model: nn.Module,
        base: Optimizer,
        rule: Rule,
        *,
        loss: LossFunction | Task,
        total_steps: int | None = None,
        steps_per_epoch: int | None = None,
        seed: int = 0,
        rng: Replay = "same",
        bn_stats: BatchNormStatistics = "clean",
        clip: float | None = None,
        accumulate: int = 1,
        precision: Mode = "off",
        comm: Comm | None = None,
        pair: Comm | None = None,
        streams: bool = False,
        ascent_scope: AscentScope = "global",
        samples: int | None = None,
        draw: Draw | None = None,
        loss_decay: float = 0.0,
        rho_schedule: RadiusSchedule = "constant",
        rho_warmup: int | None = None,
    ) -> None:
        check_options(rule, base, bn_stats, clip, loss_decay)
        check_initialised(model)
        check_process_group(model, loss, comm, pair)
        self._alone = comm is None and pair is None
        self._pair = pair or ALONE
        if self._pair.size > 1 or streams:
            check_independent(rule, self._pair, streams, comm or ALONE, rng, bn_stats, precision)
        for name, length in (("total_steps", total_steps), ("steps_per_epoch", steps_per_epoch), ("samples", samples)):
            if length is not None:
                check_range(name, length, 1)
        self.base = base
        full = completed(rule)
        assert full.radius
        self.rule = replace(full, radius=scheduled(full.radius, rho_schedule, rho_warmup))
        several = streams or any(ranks is not None and ranks.size > 1 for ranks in (comm, pair))
        self._trained = TrainedParameters(model, base, rule.text, comm or ALONE, ascent_scope, several)
        self.names, self.params = self._trained.names, self._trained.params
        self._model = model
        self._clip = clip
        self._comm = comm or ALONE
        self._across: Comm = self._comm if ascent_scope == "local" else ALONE
        self._total_steps = total_steps
        self._steps_per_epoch = steps_per_epoch
        self._precision = Precision(precision, self.params[0].device)
        self._state = State(
            base,
            self.params,
            self._precision,
            seed,
            self._comm,
            sharded=self.params if self._trained.sharded is not None else None,
            apart=ascent_scope == "local",
            shards=self.rule.shards or 1,
        )
        # Not functions that are written here, so that the optimizer can be copied together with its model.
        self._make_oracle = partial(
            Oracle,
            as_task(model, loss),
            model,
            comm=ALONE if ascent_scope == "local" else self._comm,
            precision=self._precision,
            accumulate=accumulate,
            replay=rng,
            update_buffers=ROLES[bn_stats],
            auxiliary=self.rule.auxiliary.losses if self.rule.auxiliary else None,
            decay=loss_decay,
        )
        self._make_surroundings = partial(
            Surroundings,
            model=model,
            base=base,
            generator=self._state.generator,
            masks=self.rule.masks,
            ascent_loss=self.rule.ascent_loss,
            wants_clean=self.rule.wants_clean(),
            samples=samples,
            draw=draw,
            ranks=self._comm,
            across=self._across,
            pair=self._pair,
        )
        self._streams = streams
        self._arrange()
        whole = None if (self.rule.shards or 1) > 1 else True
        clock = {"total_steps": total_steps, "steps_per_epoch": steps_per_epoch}
        entries = True if self._trained.sharded is None else None
        check_needs(self.rule, {**clock, "whole_batch": whole, "samples": samples, "whole_tensors": entries})

    # ------------------------------------------------------------------ the step

    @torch.no_grad()
    def step(self, batch: Any = None) -> StepReport:
        """Take one step.

        Args:
            batch: `(inputs, targets)`, `(inputs, targets, indices)`, a `Batch`, or, for rules that need only
                gradients, a closure that calls backward(), once or for several micro-batches, and returns the loss.

        Raises:
            UsageError: If the rule needs more than was given, or if gradients that a caller has accumulated on the
                parameters would be dropped.
            DivergedError: If an fp16 step overflows with the smallest loss scale too.
        """
        if self._alone and world_size() > 1:
            check_process_group(self._model, None, None, None)
        work = self._work(batch)
        self._follow()
        accumulated = Accumulated(self.names, self.params)
        if isinstance(work, Closure):
            work.accumulated = accumulated
        else:
            accumulated.refuse("call opt.zero_grad() before step(), or make them part of the loss")
        self._oracle.cost, self._oracle.reached = Cost(), [False] * len(self.params)
        self._oracle.rows.forget()
        self._oracle.updates.begin()
        self._precision.forget()
        before = Buffers.of(self._model), self._state.generator.get_state()
        try:
            whole, steps = self._steps(work)
            perturbed = self._perturbs(whole)
            if not perturbed:
                self._oracle.updates.expect_no_perturbed_pass()
            update = vec.weighted_sum([self._direction(step, perturbed) for step in steps], whole.own)
            clean = whole.clean if whole is steps[0] else Joint([s.clean for s in steps], whole.own, self._across)
            self._across.sum_(update)
            if self._across.size > 1:
                self._pair.broadcast_(update)  # two groups of ranks may add up in different orders
            self._state.memory.settle(self._across, self._pair)
            clean.forward()  # a rule that never looked at the clean loss still owes buffers and report theirs
            self._oracle.updates.end()
            average_statistics_(self._model, self._comm, self._pair, self._oracle.updates.parts)
            dropped = self._precision.scaled and self._overflowed()
            if not dropped:
                self._show(whole, clean)
                self._move(update)
                if self.rule.auxiliary is not None:
                    self.rule.auxiliary.moved(whole)
                self._state.memory.commit()
        except BaseException:
            self._undo(*before)
            accumulated.put_back()
            raise
        if dropped:
            self._undo(*before)
        self._precision.finish(dropped)
        report = report_of(whole, steps, clean, self._oracle.cost, perturbed=perturbed, dropped=dropped)
        self._state.count(report, dict.fromkeys((whole, *steps)))
        return report

    def _steps(self, work: Work) -> tuple[Step, list[Step]]:
        """Return the step of the whole batch and those of its shards, which with a single shard are the same."""
        whole = Step(self._around, work, self._state.memory, self.clock)
        if self.rule.auxiliary is not None:
            reference = whole.batch().reference = self.rule.auxiliary.reference(whole)
            whole.tally("auxiliary", torch.tensor(reference is not None, device=self.params[0].device))
        return whole, whole.cut(self.rule.shards or 1)

    def _perturbs(self, whole: Step) -> bool:
        """Ask the gate, once for all shards."""
        assert self.rule.gate
        for mask in self.rule.masks:
            mask.begin(whole)
        return self.rule.gate.perturbs(whole)

    def _direction(self, step: Step, perturbs: bool) -> Vec:
        """Ask the ascent, the shape and the descent, in that order."""
        rule = self.rule
        assert rule.rows
        assert rule.descent
        if not perturbs:
            if rule.filter is not None:
                rule.filter.pass_by(step)
            return rule.descent.plain(step)
        epsilon = offset(rule, step)
        there = step.at(epsilon, rule.rows.select(step, epsilon))
        return rule.descent.perturbed(step, there)

    def _show(self, whole: Step, clean: Point) -> None:
        """Show the auxiliary loss what the clean pass gave."""
        if self.rule.auxiliary is not None:
            assert clean.outputs is not None
            self.rule.auxiliary.see(whole, clean.outputs)

    def _move(self, update: Vec) -> None:
        """Clip the update and let the base optimizer step with it."""
        if self._oracle.complex:
            update = as_stored(update, self.params)
        for p, g, has in zip(self.params, update, self._oracle.reached, strict=True):
            p.grad = g if has else None
        if self._clip is not None:
            nn.utils.clip_grad_norm_(self.params, self._clip)
        if isinstance(self.base, torch.optim.SparseAdam):
            self._oracle.rows.make_sparse(self.names, self.params)
        self.base.step()
        mark_as_used(self.params)

    def _overflowed(self) -> bool:
        """Read, on every rank alike, whether a pass of this fp16 step gave a gradient or loss that is not finite."""
        overflow = self._precision.overflow.clone()
        self._comm.any_(overflow)
        return bool(overflow)

    def _undo(self, buffers: Buffers, generator: Tensor) -> None:
        """Leave no trace of a step that did not happen; the weights are where they were already."""
        buffers.put_back()
        self._state.generator.set_state(generator)
        self._state.memory.roll_back()
        for p in self.params:
            p.grad = None

    def _follow(self) -> None:
        """Take parameters that were frozen, unfrozen or added since the last step for what they are now.

        What the rule remembers of a parameter that was frozen is forgotten, so that nothing displaces it, and one that
        joins begins anew.
        """
        if self._trained.changed():
            before = self._trained.update()
            self._arrange()
            self._state.memory.rearrange(lambda kept: self._aligned(kept, before))

    def _arrange(self) -> None:
        """Build what is aligned with the parameters that are trained now."""
        params, names = list(self.params), list(self.names)
        self._oracle = self._make_oracle(params, sharded=self._trained.sharded)
        self._around = self._make_surroundings(
            params=params,
            names=names,
            owners=owners(self._model, params),
            oracle=self._oracle,
            independent=self._independent(params),
        )

    def _aligned(self, memory: Mapping[str, Any], before: Sequence[str]) -> dict[str, Any]:
        """Return a memory that was aligned with some parameters aligned with those that are trained now."""
        return realigned(memory, before, self.names, self._trained.as_real(), self.rule.aligned())

    def _independent(self, params: Sequence[Tensor]) -> Independent | None:
        """Return how gradients that do not depend on each other are computed; None is in turn."""
        if self._pair.size > 1:
            return OnPair(self._pair, self._oracle, self._model, params)
        return OnStreams(self._oracle, self._model, params) if self._streams else None

    # ------------------------------------------------------------------ around the step

    @property
    def totals(self) -> Totals:
        """Host-side sums over all steps."""
        return self._state.totals

    @property
    def clock(self) -> Clock:
        """Where in the run the next step is."""
        return Clock(self.totals.steps, self._total_steps, self._steps_per_epoch)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The base optimizer's groups themselves."""
        return self.base.param_groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients on the parameters; needed before `step` only if another backward() has left some."""
        self.base.zero_grad(set_to_none)
        mark_as_used(self.params)

    def ahead(self) -> list[tuple[Vec, Work]]:
        """Return of every shard the gradient that the next step climbs and its batch, where the last step left them."""
        assert self.rule.ascent
        drawers = [Drawer(self._state.memory, shard) for shard in range(self.rule.shards or 1)]
        return [known for drawer in drawers if (known := self.rule.ascent.known(drawer)) is not None]

    @torch.no_grad()
    def gradient(self, work: Work) -> Vec:
        """Return the gradient of what is minimised on a batch; no step is taken and nothing is counted."""
        cost, self._oracle.cost = self._oracle.cost, Cost()
        held = [p.grad for p in self.params]
        try:
            return self._oracle.evaluate(work, "extra").grads[0]
        finally:
            self._oracle.cost = cost
            for p, grad in zip(self.params, held, strict=True):
                p.grad = grad

    def counters(self) -> dict[str, float]:
        """Return the sums over all steps; waits for the device.

        `zero_norm` and `nonfinite_norm` count the steps whose climbed vector had no usable norm, so that they were
        taken without a perturbation; `auxiliary` those in which a rule that adds to the loss did so.
        """
        return self._state.counters()

    def check_replicas(self) -> None:
        """Compare weights and base optimizer with those of all ranks, and all else with that of the pair's other one.

        The engine calls this at intervals, on every rank at once; it waits for the device.

        Raises:
            ReplicaError: If they differ in any bit.
        """
        check_alike(self._comm, self._pair, *self._replicated())

    def _replicated(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what is the same on all ranks, and what on ranks with the same samples only."""
        everywhere = {f"weight {name}": p for name, p in zip(self.names, self.params, strict=True)}
        here = {f"buffer {name}": b for name, b in self._model.named_buffers()}
        random = {"torch's random state": torch.get_rng_state()}
        memory = self._state.memory.state_dict()
        return {**everywhere, "base optimizer": self.base.state_dict()}, {**here, **random, "memory": memory}

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next step depends on, but for the model's own state.

        That is the base optimizer's state, the rule's memory, the loss scale, the random stream and the counters, as
        plain data that `torch.load(..., weights_only=True)` reads. Every rank takes part. Of sharded parameters rank 0
        returns it whole and on the CPU, as one process would, and the others nothing.
        """
        packed = self._state.pack(self.rule.name)
        return {**packed, "parameters": list(self.names)} if packed else packed

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a stored state; the hyperparameters of the rule stay this optimizer's.

        Which parameters are frozen is what `requires_grad` says now, not what it said when the state was stored.

        Raises:
            InputError: If it is another rule's or another kind of base optimizer's, or incomplete.
        """
        self._follow()
        if "parameters" in state and "memory" in state:
            state = {**state, "memory": self._aligned(state["memory"], state["parameters"])}
        self._state.unpack(state, self.rule.name)

    def _work(self, given: Any) -> Work:
        if given is None:
            raise UsageError("step() was given nothing", "call opt.step((inputs, targets)), or opt.step(closure)")
        work: Work = Closure(cast("Callable[[], Tensor]", given)) if callable(given) else Batch.of(given)
        if self._comm.size > 1 and work.parts is None:
            work.parts = self._comm.objects(work.size)
        batch = work if isinstance(work, Batch) else None
        if 0 in (work.parts or [work.size]):
            raise UsageError("the batch is empty, allowed is 1 sample or more on every rank", "leave empty batches out")
        check_needs(self.rule, {"batch": batch, "indices": None if batch is None else batch.indices})
        return work

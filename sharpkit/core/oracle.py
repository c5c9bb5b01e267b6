"""The loss and the gradient of one batch at the current weights.

Gradient accumulation, precision, the freezing of buffers, the replay of random masks, the mean over ranks and the
counting of samples happen here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import get_args

import torch
from torch import Tensor, nn

from sharpkit.core import vec
from sharpkit.core.backward import Backward
from sharpkit.core.batch_norm import is_synchronised
from sharpkit.core.buffer_updates import BufferUpdates
from sharpkit.core.buffers import Buffers, evaluating
from sharpkit.core.comm import Comm
from sharpkit.core.fisher import FisherMode, official_squared_gradients, squared_gradients
from sharpkit.core.fully_sharded import FullySharded
from sharpkit.core.pairs import as_real
from sharpkit.core.passes import AuxiliaryLoss, Objective, Replay, Role, Touched
from sharpkit.core.precision import Precision
from sharpkit.core.process_group import unreduced, wrappers
from sharpkit.core.randomness import SameDraws
from sharpkit.core.returned import check_outputs
from sharpkit.core.rows import SomeRows, can_see_into
from sharpkit.core.task import Batch, Task, Tree
from sharpkit.core.vec import Vec
from sharpkit.core.work import Closure, Cost, Evaluation, Work, mean_loss
from sharpkit.errors import UsageError


class Oracle:
    """Evaluates losses and gradients of batches at the weights that the model holds at the moment.

    Args:
        task: Outputs and per-sample losses.
        model: The module that holds the buffers.
        params: The trainable parameters that gradients are aligned with.
        comm: The ranks that a batch lies on; loss and gradient are those of all its samples.
        precision: Autocast and loss scale.
        accumulate: How many micro-batches a batch is cut into; the gradient is that of the whole batch.
        replay: `same` evaluates a batch with the same random masks every time, `fresh` with new ones.
        update_buffers: The roles whose forward passes may change buffers (batch-norm statistics); without a
            perturbed pass the clean one takes its place.
        auxiliary: Added to the task's losses of a batch that has a reference.
        decay: lambda of a term lambda / 2 ||w||^2 in every objective; losses are reported without it.
        sharded: How to pass through the model if its parameters are sharded.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        params: Sequence[Tensor],
        *,
        comm: Comm,
        precision: Precision,
        accumulate: int = 1,
        replay: Replay = "same",
        update_buffers: frozenset[Role] = frozenset({"clean"}),
        auxiliary: AuxiliaryLoss | None = None,
        decay: float = 0.0,
        sharded: FullySharded | None = None,
    ) -> None:
        if accumulate < 1:
            raise UsageError(f"accumulate is {accumulate}, allowed is 1 or more", "use 1 for no accumulation")
        if replay not in get_args(Replay):
            raise UsageError(f"rng is {replay!r}, allowed are {', '.join(get_args(Replay))}", "use same")
        self.cost = Cost()
        self.reached = [False] * len(params)
        self._task = task
        self._model = model
        self._params = list(params)
        self._device = self._params[0].device
        self._comm = comm
        self._sharded = sharded
        self._wrappers = wrappers(model)
        self._backward = Backward(params, comm, precision, sharded)
        self.rows, self.complex = self._backward.rows, self._backward.complex
        self._synchronised = is_synchronised(model)
        # Then every rank takes part in every pass, also without samples.
        self._together = self._synchronised or sharded is not None
        self._precision = precision
        self._accumulate = accumulate
        self._replay = replay
        self.updates = BufferUpdates(model, update_buffers)
        self._auxiliary = auxiliary
        self._decay = decay

    def evaluate(
        self,
        work: Work,
        role: Role,
        objectives: Sequence[Objective | None] = (None,),
        only: Sequence[Touched] | None = None,
    ) -> Evaluation:
        """Compute the mean loss and the gradients of the given objectives from one forward pass.

        Args:
            work: A batch, or a closure.
            role: Whether this is the step's clean pass, its perturbed one, or neither.
            objectives: Per-sample losses to differentiate the mean of; None is the task's own; without any, the
                pass is forward only.
            only: The parameters, or rows of them, to differentiate by, the other gradients are zero; None is all.

        Raises:
            UsageError: If a closure is asked for more than the gradient of its own loss.
        """
        with self.updates.passing(role, work.parts), self._same_draws(work), self._passing():
            if isinstance(work, Closure):
                return self._run_closure(work, objectives)
            return self._run_batch(work, objectives, only)

    def draws(self, work: Work) -> bool:
        """Return whether an evaluation draws random masks, rather than replay those of an earlier one."""
        return self._replay == "fresh" or work.randomness is None

    def credit(self, work: Work, evaluation: Evaluation) -> None:
        """Take account of what another rank evaluated in place of this one."""
        self.cost.add(work, len(evaluation.grads))
        self.reached = [a or b for a, b in zip(self.reached, evaluation.reached, strict=True)]
        self._precision.watch(evaluation.loss if evaluation.losses is None else evaluation.losses)
        for grads in evaluation.grads:
            self._precision.watch_gradient(grads)

    def outputs(self, batch: Batch) -> Tensor:
        """Return the model's outputs in evaluation mode, (B, ...), without a gradient; counts a forward pass."""
        frozen = Buffers.of(self._model)
        try:
            with torch.no_grad(), evaluating(self._model), self._precision.autocast(), self._passing():
                pieces = [self._task.outputs(piece) for piece in batch.split(self._accumulate)]
        finally:
            frozen.put_back()
        self.cost.add(batch, 0)
        return torch.cat(pieces)

    def squared_gradients(self, batch: Batch, mode: FisherMode) -> Vec:
        """Return the mean over the samples here of the task's squared gradient, without auxiliary loss and decay.

        Args:
            batch: The samples.
            mode: `eval` leaves buffers as they are, `official` is one sample at a time in training mode.
        """
        function = squared_gradients if mode == "eval" else official_squared_gradients
        params = as_real(self._params) if self.complex else self._params
        mean = function(self._model, self._task, self._params, batch) if batch.size else vec.zeros_like(params)
        self.cost.add(batch, 1)
        return mean

    def _same_draws(self, work: Work) -> AbstractContextManager[object]:
        return nullcontext() if self._replay == "fresh" else SameDraws(work, self._device)

    def _run_batch(
        self, batch: Batch, objectives: Sequence[Objective | None], only: Sequence[Touched] | None
    ) -> Evaluation:
        losses: list[Tensor] = []
        outputs: list[Tensor] = []
        sums: list[Vec] = []
        reached = [False] * len(self._params)
        pieces = [piece for piece in batch.split(self._accumulate) if piece.size or self._together]
        for n, piece in enumerate(pieces):
            without = self._unmoved_by_none(piece)
            with torch.set_grad_enabled(bool(objectives)), self._precision.autocast(), self._some_rows(only), without:
                out = self._task.outputs(piece)
                own = self._task.losses(out, piece)
                _check_shapes(out, own, piece.size)
                whole = own if piece.reference is None else self._with_auxiliary(own, out, piece.reference)
                scalars = [(whole if o is None else o(out, piece)).sum() / batch.count for o in objectives]
            losses.append(own.detach())
            outputs.append(out.detach())
            for k, scalar in enumerate(scalars):
                before, more = (sums[k] if n else None), k + 1 < len(scalars)
                last = n + 1 == len(pieces)
                grads = self._backward.gradient(scalar, reached, only, before, keep_graph=more, last=last)
                sums[k : k + 1] = [grads]
        if not pieces:
            losses, sums = [self._params[0].new_zeros(0)], [self._backward.of_none(only, reached) for _ in objectives]
        self.cost.add(batch, len(objectives))
        for grads in sums:
            self._settle(grads, reached)
        joined = losses[0] if len(losses) == 1 else torch.cat(losses)
        self._precision.watch(joined)
        seen = (outputs or losses)[0] if len(outputs) <= 1 else torch.cat(outputs)
        return Evaluation(self._mean(joined, batch), joined, seen, sums, reached)

    def _mean(self, losses: Tensor, batch: Batch) -> Tensor:
        """Return the mean loss over the samples of a batch, wherever they lie."""
        if self._comm.size == 1:
            return losses.mean()
        mean = losses.sum() / batch.count
        self._comm.sum_([mean])
        return mean

    def _some_rows(self, only: Sequence[Touched] | None) -> AbstractContextManager[object]:
        rows = {
            id(p): chosen for p, chosen in zip(self._params, only or (), strict=False) if isinstance(chosen, Tensor)
        }
        return SomeRows(rows) if rows and not self.complex and can_see_into(self._model) else nullcontext()

    def _passing(self) -> AbstractContextManager[object]:
        if self._wrappers:
            return unreduced(self._wrappers)
        return nullcontext() if self._sharded is None else self._sharded.passing()

    @contextmanager
    def _unmoved_by_none(self, piece: Batch) -> Generator[None]:
        """Keep statistics of no samples, which are not numbers, out of the buffers."""
        buffers = None if piece.size or self._synchronised else Buffers.of(self._model)
        try:
            yield
        finally:
            if buffers is not None:
                buffers.put_back()

    def _with_auxiliary(self, own: Tensor, outputs: Tensor, reference: Tree) -> Tensor:
        assert self._auxiliary is not None
        added = self._auxiliary(outputs, reference)
        _check_shapes(outputs, added, len(own))
        return own + added

    def _run_closure(self, closure: Closure, objectives: Sequence[Objective | None]) -> Evaluation:
        if list(objectives) != [None]:
            raise UsageError(
                "a closure gives only the gradient of its own loss, and this rule needs more",
                "call opt.step((inputs, targets))",
            )
        if self._precision.mode != "off":
            raise UsageError(
                f"a closure cannot be run in {self._precision.mode}",
                "call opt.step((inputs, targets)), or precision='off'",
            )
        self._backward.clear()
        closure.accumulated.lay_out()
        with torch.enable_grad():
            returned = closure.function()
        closure.accumulated.check_removed()
        loss = mean_loss(returned, self._device)
        if all(p.grad is None for p in self._params):
            raise UsageError(
                "the closure left no gradient in any trainable parameter",
                "it must call loss.backward() and return the loss",
            )
        reached = [False] * len(self._params)
        grads = self._backward.take(reached)
        self.cost.add(closure, 1)
        if self._comm.size > 1:
            grads = self._backward.summed(grads)
            if self._sharded is None:
                grads = vec.scale(grads, 1 / self._comm.size)
            loss = loss / self._comm.size
            self._comm.sum_([loss])
        self._settle(grads, reached)
        return Evaluation(loss, None, None, [grads], reached)

    def _settle(self, grads: Vec, reached: Sequence[bool]) -> None:
        self.reached = [a or b for a, b in zip(self.reached, reached, strict=True)]
        self._precision.unscale_(grads)
        if self._decay:
            # As the base optimizer, which leaves parameters without a gradient as they are.
            params = as_real(self._params) if self.complex else self._params
            pairs = [(g, p.detach()) for g, p, has in zip(grads, params, reached, strict=True) if has]
            vec.add_([g for g, _ in pairs], [p for _, p in pairs], alpha=self._decay)


def _check_shapes(outputs: Tensor, losses: Tensor, size: int) -> None:
    """Refuse what would make the gradient another than that of the mean over the samples."""
    check_outputs(outputs)
    if not isinstance(losses, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError(
            f"the task's losses are {type(losses).__name__}, allowed is a tensor ({size},)", "return one loss a sample"
        )
    if losses.shape != (size,):
        raise UsageError(
            f"the task's losses have shape {tuple(losses.shape)} for a batch of {size}, allowed is ({size},)",
            "return one loss a sample",
        )
    if losses.is_complex():
        raise UsageError(f"the task's losses are {losses.dtype}, allowed are real numbers", "return their real part")

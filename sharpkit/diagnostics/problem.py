"""What is differentiated: the mean per-sample loss over given samples, as a function of chosen parameters."""

from __future__ import annotations

import math
import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm  # pyright: ignore[reportPrivateUsage]

from sharpkit.core import vec
from sharpkit.core.buffers import Buffers, evaluating
from sharpkit.core.comm import ALONE, Comm
from sharpkit.core.parameters import check_initialised
from sharpkit.core.products import without_tf32
from sharpkit.core.snapshot import same_bits
from sharpkit.core.task import Batch, LossFunction, Task, as_task, tensors
from sharpkit.diagnostics.casting import cast_batch, cast_model, said_of_types, wider
from sharpkit.diagnostics.folding import NOTHING, Folding, folded
from sharpkit.diagnostics.measured import measured
from sharpkit.diagnostics.reductions import wide
from sharpkit.diagnostics.sharing import portion, require_alike
from sharpkit.diagnostics.substitutes import Substitutes, differentiable_twice
from sharpkit.errors import DivergedError, InputError, UsageError

BnMode = Literal["eval", "train"]
"""Whether batch norm uses its stored statistics, or those of each batch, which makes the loss another function."""

_FEW = 8
"""Samples that the model is looked at with."""

_REPEATABLE = 1e-5
"""Largest relative difference of two evaluations of the same loss; rounding of float32 sums is well below."""


@dataclass
class Passes:
    """Samples that went through the model.

    Args:
        forward: Evaluations.
        backward: First derivatives, and second ones, each as one.
    """

    forward: int = 0
    backward: int = 0


@dataclass(frozen=True)
class Problem:
    """The loss L(w) = 1/N sum_i l_i(w) of N samples at the model's weights w.

    Args:
        task: Outputs and per-sample losses.
        model: Its buffers stay as they are.
        batches: All samples, each once.
        names: The names of the parameters that L is a function of.
        params: These parameters.
        bn_mode: How batch norm normalises.
        loss: L(w).
        comm: The ranks that share the samples out among them; every one holds all.
        passes: What has been evaluated so far, by this rank.
        notes: What a reader should know of L.
        folding: Batch norm that is computed together with the layer before it.
        substitutes: Functions whose second derivatives torch lacks or gets wrong.
    """

    task: Task
    model: nn.Module
    batches: tuple[Batch, ...]
    names: tuple[str, ...]
    params: tuple[nn.Parameter, ...]
    bn_mode: BnMode
    loss: float
    comm: Comm = ALONE
    passes: Passes = field(default_factory=Passes)
    notes: tuple[str, ...] = ()
    folding: Folding = NOTHING
    substitutes: Substitutes = field(default_factory=Substitutes)

    @property
    def samples(self) -> int:
        """The number of samples N."""
        return sum(batch.size for batch in self.batches)

    @property
    def size(self) -> int:
        """The number of parameters P."""
        return sum(p.numel() for p in self.params)

    @property
    def dtype(self) -> torch.dtype:
        """The type of flat vectors: float32, or float64 where a parameter is."""
        return torch.float64 if any(p.dtype == torch.float64 for p in self.params) else torch.float32

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.params[0].device

    def here(self, batches: Iterable[Batch] | None = None) -> Iterator[tuple[int, Batch]]:
        """Yield the samples that are this rank's, each piece with the number of its batch.

        Batch norm in training mode makes the samples of a batch depend on each other, so there batches stay whole.

        Args:
            batches: All samples once more; None takes `batches`.
        """
        given = self.batches if batches is None else batches
        return portion(given, self.samples, self.comm, whole=self.bn_mode == "train")

    def losses(self, batch: Batch) -> Tensor:
        """Return the per-sample losses of a batch, (B,)."""
        return self.task.losses(self.outputs(batch), batch)

    @contextmanager
    def cast(self, dtype: torch.dtype) -> Generator[Problem]:
        """Give the same problem with weights, buffers and samples in another type while the context lasts."""
        if dtype == self.dtype:
            yield self
            return
        with cast_model(self.model, dtype):
            yield replace(self, batches=tuple(cast_batch(batch, dtype) for batch in self.batches))

    def outputs(self, batch: Batch) -> Tensor:
        """Return the outputs for a batch."""
        self.passes.forward += batch.size
        return self.task.outputs(batch)

    def gradient(self, batches: Iterable[Batch] | None = None) -> Tensor:
        """Return the gradient of L, (P,). Batch norm in training mode moves its statistics.

        Args:
            batches: All samples once more; None takes `batches`.
        """
        total = torch.zeros(self.size, dtype=self.dtype, device=self.device)
        for _, batch in self.here(batches):
            loss = self.losses(batch).sum() / self.samples
            grads = torch.autograd.grad(loss, list(self.params), allow_unused=True, materialize_grads=True)
            self.passes.backward += batch.size
            total += vec.flatten(grads)
        self.comm.sum_([total])
        return total


@contextmanager
def opened(
    model: nn.Module,
    loss: LossFunction | Task,
    batches: Iterable[Any],
    *,
    params: str | None = None,
    bn_mode: BnMode = "eval",
    dtype: torch.dtype | None = None,
    fold: bool = True,
    comm: Comm = ALONE,
) -> Generator[Problem]:
    """Make a model ready for derivatives of its loss, and leave it as it was at the end, as `measured` does.

    The model is in evaluation mode, with batch norm as `bn_mode` says. Functions without a right second derivative are
    computed by others: see `substitutes`. A GPU does not round to TF32. The loss is evaluated twice; what does not come
    out the same is refused. Weights in half precision are differentiated as float32 copies, with a note.

    Args:
        model: On the device of the batches.
        loss: `(outputs, targets, reduction="none") -> (B,)`, or a task.
        batches: `(inputs, targets)` or `Batch`, of any sizes.
        params: A regular expression that the names of the parameters must match somewhere; None takes all.
        bn_mode: `eval` uses the stored statistics; `train` those of every batch.
        dtype: Compute in this type; None leaves the model's.
        fold: Whether batch norm in evaluation mode is folded into the layer before it, which is exact.
        comm: The ranks that share the samples out among them; every one is given all, and the same weights.

    Raises:
        UsageError: If no parameter or no batch is left, or ranks were given different ones.
        InputError: If two evaluations differ.
        DivergedError: If the loss is not finite.
    """
    if bn_mode not in get_args(BnMode):
        raise UsageError(f"bn-mode is {bn_mode!r}, allowed are {', '.join(get_args(BnMode))}", "use eval")
    check_initialised(model)
    task = as_task(model, loss)
    with ExitStack() as stack:
        _, notes = stack.enter_context(measured(model))
        given = as_batches(batches)
        chosen = _chosen(model, params)
        require_alike(model, given, comm)
        buffers = Buffers.of(model)
        stack.enter_context(evaluating(model))
        if bn_mode == "train":
            for module in model.modules():
                if isinstance(module, BatchNorm):
                    module.train()
        substitutes = stack.enter_context(differentiable_twice())
        stack.enter_context(without_tf32())
        if dtype is None:
            dtype, said = wider(model)
            notes += said
        if dtype is not None:
            stack.enter_context(cast_model(model, dtype))
            given = [cast_batch(batch, dtype) for batch in given]
        names, parameters = tuple(chosen), tuple(chosen.values())
        unwritten = vec.clone(list(model.parameters()))
        problem = Problem(
            task, model, tuple(given), names, parameters, bn_mode, math.nan, comm, substitutes=substitutes
        )
        with said_of_types(dtype):
            first = _mean_loss(problem, problem.batches, buffers)
        again: Iterable[Batch] = problem.batches
        if not isinstance(batches, Sequence | Iterator):  # a loader, which may draw other samples the next time
            again = (Batch.of(b) if dtype is None else cast_batch(Batch.of(b), dtype) for b in batches)
        _check_repeatable(first, _mean_loss(problem, again, buffers))
        notes += written(model, unwritten)
        del unwritten
        folding = NOTHING
        if bn_mode == "eval" and fold:
            folding = stack.enter_context(folded(model, task, given[0].select_range(0, min(_FEW, given[0].size))))
        yield replace(problem, loss=first, notes=tuple(notes), folding=folding)


def written(model: nn.Module, before: Iterable[Tensor]) -> list[str]:
    """Return a note on every parameter that forward passes have written to, given its values before."""
    return [
        f"the forward pass writes to {name}; measured at the values that it leaves there"
        for (name, p), value in zip(model.named_parameters(), before, strict=True)
        if not same_bits(p, value)
    ]


def as_batches(batches: Iterable[Any]) -> list[Batch]:
    """Return `(inputs, targets)` or `Batch` as batches.

    Raises:
        UsageError: If there is none.
    """
    given = [Batch.of(batch) for batch in batches]
    if not given:
        raise UsageError("there is no batch, at least one is needed", "give a list of (inputs, targets)")
    return given


def _chosen(model: nn.Module, pattern: str | None) -> dict[str, nn.Parameter]:
    """Return the parameters to differentiate by, by name; tied ones once."""
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trainable:
        raise UsageError("the model has no parameter that requires a gradient", "call requires_grad_() on some")
    for name, p in trainable.items():
        if p.is_complex():
            raise UsageError(
                f"parameter {name} is {p.dtype}, allowed are real ones",
                "store torch.view_as_real(p) and call torch.view_as_complex in forward()",
            )
    try:
        kept = {name: p for name, p in trainable.items() if pattern is None or re.search(pattern, name)}
    except re.error as error:
        raise UsageError(f"params is {pattern!r}, which is no regular expression: {error}", "correct it") from None
    if not kept:
        shown = ", ".join(list(trainable)[:4])
        raise UsageError(f"params is {pattern!r}, which no parameter's name matches", f"names are {shown}, ...")
    return kept


def _mean_loss(problem: Problem, batches: Iterable[Batch], buffers: Buffers) -> float:
    total, count = torch.zeros(2, dtype=wide(problem.device), device=problem.device).unbind()
    with torch.no_grad():
        for _, batch in problem.here(batches):
            total += problem.losses(batch).sum(dtype=total.dtype)
            count += batch.size
            if problem.bn_mode == "train":
                buffers.put_back()
    problem.comm.sum_([total, count])
    return float(total) / max(float(count), 1)


def _check_repeatable(first: float, second: float) -> None:
    if not (math.isfinite(first) and math.isfinite(second)):
        raise DivergedError(f"the loss is {first:g}, allowed is a finite number", "give a model that has not diverged")
    if abs(first - second) > _REPEATABLE * max(abs(first), abs(second)) + 1e-12:
        raise InputError(
            f"the loss is {first:.8g} and, evaluated again, {second:.8g}: model or data are random",
            "remove dropout that acts in evaluation mode, and augmentation",
        )


def bytes_of(batches: Sequence[Batch]) -> int:
    """Return the bytes of the inputs of batches."""
    return sum(t.nbytes for batch in batches for t in tensors(batch.inputs))

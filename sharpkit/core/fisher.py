"""The diagonal of the empirical Fisher information: mean squared gradients of single samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from sharpkit.core import vec
from sharpkit.core.buffers import Buffers, evaluating
from sharpkit.core.layers import NotLayerwiseError, layerwise
from sharpkit.core.pairs import any_complex, as_real
from sharpkit.core.task import Batch, Task, map_tensors
from sharpkit.core.vec import Vec
from sharpkit.errors import UsageError, one_line

FisherMode = Literal["eval", "official"]
"""Evaluation mode with the buffers left alone, or single samples in training mode, as Sparse SAM's official code."""

Way = Callable[[nn.Module, Task, Sequence[Tensor], Batch], Vec]

_CHECKED = 2  # samples that a fast way is compared with the definition on
_TOLERANCE = 1e-3
_SLACK = 1e-6
_ENTRIES = 2**24  # of per-sample gradients that are held at a time


def squared_gradients(model: nn.Module, task: Task, params: Sequence[Tensor], batch: Batch) -> Vec:
    """Return F = (1 / N) sum_i (grad l_i(w))^2, elementwise, aligned with the parameters.

    The model is in evaluation mode and its buffers stay as they are, so that samples do not depend on each other. The
    fastest way that agrees with the definition on the first samples is taken: layer by layer from one forward and one
    backward pass, or by vmap, or, for models that neither can see through, sample by sample.

    Args:
        model: Holds the parameters; every module has its own mode again afterwards.
        task: Gives the loss of every sample.
        params: What is differentiated by; a frozen one has F = 0.
        batch: N samples.
    """
    buffers = Buffers.of(model)
    try:
        with evaluating(model), torch.no_grad():
            total = _sum(model, task, params, batch)
    finally:
        buffers.put_back()
    return vec.scale(total, 1 / batch.size)


def official_squared_gradients(model: nn.Module, task: Task, params: Sequence[Tensor], batch: Batch) -> Vec:
    """Return the same as Sparse SAM's official code has it (Mi et al. 2022): in training mode, one sample at a time.

    Batch norm then sees a single sample, and its running statistics move with every one.

    Raises:
        UsageError: If a layer cannot normalise a single sample.
    """
    try:
        total = _one_by_one(model, task, params, batch)
    except ValueError as error:
        raise UsageError(
            f"fisher_mode is official, and the model cannot take a single sample in training mode: {one_line(error)}",
            "use fisher_mode=eval",
        ) from error
    return vec.scale(total, 1 / batch.size)


def _sum(model: nn.Module, task: Task, params: Sequence[Tensor], batch: Batch) -> Vec:
    if any_complex(params):
        return _one_by_one(model, task, params, batch)
    few = batch.select_range(0, min(_CHECKED, batch.size))
    expected = _one_by_one(model, task, params, few)
    ways: tuple[Way, ...] = (layerwise, _vectorised)
    for way in ways:
        try:
            if _agree(way(model, task, params, few), expected):
                return way(model, task, params, batch)
        # A model may do anything that torch.func refuses, each with an error of its own; the definition still holds.
        except (NotLayerwiseError, RuntimeError, ValueError, TypeError, NotImplementedError):
            continue
    return _one_by_one(model, task, params, batch)


def _agree(found: Vec, expected: Vec) -> bool:
    """Return whether every tensor is right up to rounding; one that is far smaller than the others may be less so."""
    slack = _SLACK * float(vec.norm(expected))
    return all(
        float(vec.norm([a - b])) <= _TOLERANCE * float(vec.norm([b])) + slack
        for a, b in zip(found, expected, strict=True)
    )


def _one_by_one(model: nn.Module, task: Task, params: Sequence[Tensor], batch: Batch) -> Vec:
    """The definition: a forward and a backward pass for every sample."""
    total = vec.zeros_like(as_real(params))
    wanted = [(p, t) for p, t in zip(params, total, strict=True) if p.requires_grad]
    for i in range(batch.size):
        piece = batch.select_range(i, i + 1)
        with torch.enable_grad():
            loss = task.losses(task.outputs(piece), piece).sum()
            grads: Sequence[Tensor | None] = torch.autograd.grad(loss, [p for p, _ in wanted], allow_unused=True)
        for (_, t), g in zip(wanted, grads, strict=True):
            if g is not None:  # pyright: ignore[reportUnnecessaryComparison]
                (g,) = as_real([g.to_dense() if g.layout is not torch.strided else g])
                t.addcmul_(g, g)
    return total


def _vectorised(model: nn.Module, task: Task, params: Sequence[Tensor], batch: Batch) -> Vec:
    """All samples of a chunk at once, by vmap over the gradient of one."""
    names = {id(p): f"model.{name}" for name, p in model.named_parameters()}
    positions = {names[id(p)]: i for i, p in enumerate(params) if p.requires_grad and id(p) in names}
    if len(positions) < sum(p.requires_grad for p in params):
        raise NotLayerwiseError("the task holds parameters of its own")
    whole = _Losses(model, task)
    values = {name: params[i].detach() for name, i in positions.items()}

    def loss(values: dict[str, Tensor], inputs: Any, targets: Any) -> Tensor:
        return functional_call(whole, values, (inputs, targets))

    every = vmap(grad(loss), in_dims=(None, 0, 0), randomness="different")
    total = [torch.zeros_like(p, requires_grad=False) for p in params]
    chunk = max(1, _ENTRIES // sum(p.numel() for p in params))
    for start in range(0, batch.size, chunk):
        piece = batch.select_range(start, min(start + chunk, batch.size))
        for name, grads in every(values, piece.inputs, piece.targets).items():
            total[positions[name]] += grads.square().sum(0)
    return total


class _Losses(nn.Module):
    """The task's loss of one sample as a module that holds the model, so that its weights can be given anew."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        super().__init__()
        self.model = model
        self._tasks = [task]  # in a list, so that a task that is a module is not found twice

    def forward(self, inputs: Any, targets: Any) -> Tensor:
        """Return the loss of a sample without a batch axis, ()."""
        batch = Batch(*(map_tensors(lambda t: t[None], tree) for tree in (inputs, targets)))
        task = self._tasks[0]
        return task.losses(task.outputs(batch), batch).sum()

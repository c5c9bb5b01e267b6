"""Whether a model computes the same in two ways: compared at its weights, at others, and by derivatives.

A comparison of outputs at w alone cannot tell functions apart that differ by what is zero at w, such as a gate that is
initialised with zero.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor, nn

from sharpkit.core import vec
from sharpkit.core.point import displaced
from sharpkit.core.task import Batch, Task
from sharpkit.core.vec import Vec
from sharpkit.diagnostics import reductions

_APART = 0.1
"""How far the other weights are, relative to the root of a tensor's mean square; shorter where losses overflow."""

_SHRINK = 0.1
_TRIES = 4

_ROUNDING = 10.0
"""Largest relative difference that counts as rounding, in roots of the precision."""

Seen = list[Tensor]
"""What is compared: each relative to its norm."""


def seen(model: nn.Module, task: Task, batch: Batch, moved: Callable[[], None] | None = None) -> Seen:
    """Return outputs at w and at other weights, and with `moved` None the gradient there and a Hessian product at w.

    Args:
        model: In evaluation mode, at w; comes back bit for bit.
        task: Its outputs and losses.
        batch: A few samples.
        moved: Called at every point before the model is evaluated; then outputs alone are looked at.
    """
    params: Vec = list(model.parameters())
    derivatives = moved is None

    def outputs() -> Tensor:
        if moved is not None:
            moved()
        with torch.no_grad():
            return task.outputs(batch)

    found = [outputs()]
    if derivatives:
        found += _product(params, task, batch)
    steps = _random(params)
    for k in range(_TRIES):
        offset = vec.scale(steps, _APART * _SHRINK**k)
        there = [displaced(params, offset, outputs)]
        if derivatives:
            there += displaced(params, offset, lambda: _gradient(params, task, batch))
        if all(bool(t.isfinite().all()) for t in there):
            found += there
            break
    if moved is not None:
        moved()
    return found


def agree(first: Seen, second: Seen) -> bool:
    """Return whether everything that was seen differs by rounding only."""
    return len(first) == len(second) and all(_close(a, b) for a, b in zip(first, second, strict=True))


def _close(a: Tensor, b: Tensor) -> bool:
    most = _ROUNDING * torch.finfo(a.dtype).eps ** 0.5
    apart, size = reductions.norm((a - b).flatten()), reductions.norm(a.flatten())
    return a.shape == b.shape and bool(apart <= most * size)


def _random(params: Vec) -> Vec:
    """Return random tensors as large as the parameters, and as all of them on average where one is zero."""
    generator = torch.Generator().manual_seed(0)
    flat = vec.flatten([p.float() for p in params])
    typical = float(reductions.norm(flat)) / max(1, flat.numel()) ** 0.5 or 1.0
    sizes = [float(reductions.norm(p.detach().flatten())) / max(1, p.numel()) ** 0.5 or typical for p in params]
    drawn = [torch.randn(p.shape, generator=generator).to(p.device, p.dtype) for p in params]
    return [d * size for d, size in zip(drawn, sizes, strict=True)]


def _gradient(params: Vec, task: Task, batch: Batch) -> list[Tensor]:
    by = [p for p in params if p.requires_grad]
    with torch.enable_grad():
        loss = task.losses(task.outputs(batch), batch).mean()
        if not loss.requires_grad:
            return []
        return [vec.flatten(torch.autograd.grad(loss, by, allow_unused=True, materialize_grads=True))]


def _product(params: Vec, task: Task, batch: Batch) -> list[Tensor]:
    """Return a product with the Hessian, or nothing where there is no second derivative."""
    by = [p for p in params if p.requires_grad]
    with torch.enable_grad(), suppress(RuntimeError, NotImplementedError):
        loss = task.losses(task.outputs(batch), batch).mean()
        if not loss.requires_grad:
            return []
        grads = torch.autograd.grad(loss, by, create_graph=True, allow_unused=True, materialize_grads=True)
        live = [(g, v) for g, v in zip(grads, _random(by), strict=True) if g.requires_grad]
        images = torch.autograd.grad(
            [g for g, _ in live], by, [v for _, v in live], allow_unused=True, materialize_grads=True
        )
        return [vec.flatten(images)]
    return []

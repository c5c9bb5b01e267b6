"""Training steps written by hand, which the benchmarks compare with: no frozen buffers, no replay, no counting."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

RHO, LR, MOMENTUM, DECAY = 0.05, 0.01, 0.9, 5e-4
StepFunction = Callable[[Tensor, Tensor], Tensor]
"""Takes one step and returns the clean loss, still on the device."""


def base_of(model: nn.Module) -> torch.optim.Optimizer:
    """Return the SGD that every contender uses."""
    return torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY)


def sgd_step(model: nn.Module, base: torch.optim.Optimizer) -> StepFunction:
    """Return the usual training step."""

    def step(x: Tensor, y: Tensor) -> Tensor:
        base.zero_grad()
        loss = functional.cross_entropy(model(x), y)
        loss.backward()
        base.step()
        return loss.detach()

    return step


def sam_step(model: nn.Module, base: torch.optim.Optimizer) -> StepFunction:
    """Return SAM in two passes, by lists of tensors."""
    params = list(model.parameters())

    def step(x: Tensor, y: Tensor) -> Tensor:
        base.zero_grad()
        loss = functional.cross_entropy(model(x), y)
        loss.backward()
        with torch.no_grad():
            grads = [p.grad for p in params if p.grad is not None]
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))  # pyright: ignore
            saved = [p.clone() for p in params]
            torch._foreach_add_(params, torch._foreach_mul(grads, RHO / (norm + 1e-12)))  # pyright: ignore
        base.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        with torch.no_grad():
            torch._foreach_copy_(params, saved)  # pyright: ignore
        base.step()
        return loss.detach()

    return step

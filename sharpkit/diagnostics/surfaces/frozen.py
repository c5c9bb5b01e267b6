"""Batch norm folded once for many evaluations without derivatives, in place of once for every batch."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from sharpkit.core.task import Batch, Task
from sharpkit.diagnostics.folding import Layer, Norm, apply, fused, pairs_of, patch, same, unpatch


@dataclass
class Frozen:
    """Folded weights and biases that stay until `refresh`.

    Args:
        pairs: Layers with the batch norm after each.
        dtype: Of the folded weights; None leaves the layers'.
        active: Whether they are used; else layers and norms do what they did.
    """

    pairs: list[tuple[Layer, Norm]]
    dtype: torch.dtype | None = None
    active: bool = True
    folded: list[tuple[Tensor, Tensor]] = field(default_factory=list[tuple[Tensor, Tensor]])

    def refresh(self) -> None:
        """Fold the weights and statistics that the layers have now."""
        self.folded = [fused(*pair) for pair in self.pairs]
        if self.dtype is not None:
            self.folded = [(weight.to(self.dtype), bias.to(self.dtype)) for weight, bias in self.folded]


@contextmanager
def frozen(model: nn.Module, task: Task, batch: Batch, dtype: torch.dtype | None = None) -> Generator[Frozen]:
    """Fold what can be folded while the context lasts; nothing if outputs differ by more than rounding.

    Args:
        model: In evaluation mode.
        task: Its outputs.
        batch: A few samples to look with.
        dtype: Of the folded weights; None leaves the layers'.
    """
    patched: list[nn.Module] = []
    try:
        with torch.no_grad():
            before, pairs = pairs_of(model, task, batch)
            state = Frozen(pairs)
            state.refresh()
            for i, (layer, norm) in enumerate(pairs):
                patched += patch(layer, norm, _layer(state, i), _norm(state, norm))
            if pairs and not same(before, task.outputs(batch)):
                unpatch(patched)
                state, patched = Frozen([]), []
        state.dtype = dtype
        yield state
    finally:
        unpatch(patched)


def _layer(state: Frozen, i: int) -> Callable[[Tensor], Tensor]:
    layer = state.pairs[i][0]
    return lambda inputs: apply(layer, inputs, *state.folded[i]) if state.active else _own(layer, inputs)


def _norm(state: Frozen, norm: Norm) -> Callable[[Tensor], Tensor]:
    return lambda inputs: inputs if state.active else _own(norm, inputs)


def _own(module: nn.Module, inputs: Tensor) -> Tensor:
    """Return what a module computes by its class."""
    return cast("Any", type(module)).forward(module, inputs)

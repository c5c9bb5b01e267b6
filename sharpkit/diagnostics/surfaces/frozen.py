"""Batch norm folded once for many evaluations without derivatives, in place of once for every batch."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sharpkit.core.task import Batch, Task
from sharpkit.diagnostics.agreement import agree, seen
from sharpkit.diagnostics.folding import Layer, Norm, Pairs, apply, differing, fused, own, pairs_of, patch, unpatch


@dataclass
class Frozen:
    """Folded weights and biases that stay until `refresh`.

    Args:
        pairs: Layers with the batch norm after each.
        dtype: Of the folded weights; None leaves the layers'.
        active: Whether they are used; else layers and norms do what they did.
        refused: Batch norms that are not folded, with the reason for each.
    """

    pairs: list[tuple[Layer, Norm]]
    dtype: torch.dtype | None = None
    active: bool = True
    refused: tuple[str, ...] = ()
    folded: list[tuple[Tensor, Tensor]] = field(default_factory=list[tuple[Tensor, Tensor]])

    def refresh(self) -> None:
        """Fold the weights and statistics that the layers have now."""
        self.folded = [fused(*pair) for pair in self.pairs]
        if self.dtype is not None:
            self.folded = [(weight.to(self.dtype), bias.to(self.dtype)) for weight, bias in self.folded]

    @property
    def how(self) -> str:
        """What is folded and what is not, in words; empty where there is nothing to say."""
        return Pairs(self.pairs, self.refused).how

    def agrees(self, model: nn.Module, task: Task, batch: Batch) -> bool:
        """Return whether the model's outputs, at its weights and at others, are those without folding."""
        self.active = False
        plain = seen(model, task, batch, self.refresh)
        self.active = True
        return agree(plain, seen(model, task, batch, self.refresh))


@contextmanager
def frozen(model: nn.Module, task: Task, batch: Batch, dtype: torch.dtype | None = None) -> Generator[Frozen]:
    """Fold what can be folded while the context lasts; nothing if outputs, here or elsewhere, differ beyond rounding.

    Args:
        model: In evaluation mode.
        task: Its outputs.
        batch: A few samples to look with.
        dtype: Of the folded weights; None leaves the layers'.
    """
    patched: list[nn.Module] = []
    try:
        with torch.no_grad():
            pairs = pairs_of(model, task, batch)
            state = Frozen(pairs.found, refused=pairs.refused)
            for i, (layer, norm) in enumerate(pairs.found):
                patched += patch(layer, norm, _layer(state, i), _norm(state, norm))
            if pairs.found and not state.agrees(model, task, batch):
                unpatch(patched)
                state, patched = Frozen([], refused=differing(pairs).refused), []
        state.dtype = dtype
        yield state
    finally:
        unpatch(patched)


def _layer(state: Frozen, i: int) -> Callable[[Tensor], Tensor]:
    layer = state.pairs[i][0]

    def forward(input: Tensor) -> Tensor:  # noqa: A002
        return apply(layer, input, *state.folded[i]) if state.active else own(layer, input)

    return forward


def _norm(state: Frozen, norm: Norm) -> Callable[[Tensor], Tensor]:
    def forward(input: Tensor) -> Tensor:  # noqa: A002
        return input if state.active else own(norm, input)

    return forward

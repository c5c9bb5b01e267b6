"""The model's buffers (batch-norm statistics and the like) as they were at a moment, to be put back."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sharpkit.core import vec


@dataclass(frozen=True)
class Buffers:
    """A snapshot of every buffer of a module, whatever kind of layer it belongs to.

    A forward pass may change a buffer in place or assign a new tensor to its name; both are undone. Toggling
    `track_running_stats` instead would miss home-made layers and make a compiled model hold two graphs.
    """

    _held: list[tuple[nn.Module, str, Tensor]]
    copies: list[Tensor]

    @staticmethod
    def of(model: nn.Module) -> Buffers:
        """Take a snapshot."""
        held: list[tuple[nn.Module, str, Tensor]] = []
        seen: set[int] = set()
        waiting = [model]
        # nn.Module.modules() gives the same modules, ten times slower, which shows in a small network's step.
        while waiting:
            module = waiting.pop()
            if id(module) in seen:
                continue
            seen.add(id(module))
            held += [(module, name, b) for name, b in _buffers(module).items() if b is not None and not _is_expanded(b)]
            waiting += [child for child in _children(module).values() if child is not None]
        return Buffers(held, vec.clone([buffer for _, _, buffer in held]))

    def fill(self, values: list[Tensor]) -> None:
        """Give every buffer another value, until `put_back`."""
        with torch.no_grad():
            vec.copy_([buffer for _, _, buffer in self._held], values)

    @contextmanager
    def lent(self) -> Generator[None]:
        """Have the snapshot itself stand in for the buffers: what a forward pass writes does not reach them."""
        try:
            for (module, name, _), copy in zip(self._held, self.copies, strict=True):
                _buffers(module)[name] = copy
            yield
        finally:
            for module, name, buffer in self._held:
                _buffers(module)[name] = buffer

    def put_back(self) -> None:
        """Give every name its tensor back, and every tensor its values, bit for bit."""
        for module, name, buffer in self._held:
            _buffers(module)[name] = buffer
        with torch.no_grad():
            vec.copy_([buffer for _, _, buffer in self._held], self.copies)


@contextmanager
def evaluating(model: nn.Module) -> Generator[None]:
    """Put every module into evaluation mode, and each into its own mode again afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


def _is_expanded(buffer: Tensor) -> bool:
    """Return whether entries share memory, so that nothing can have written to the tensor in place."""
    return not buffer.is_contiguous() and 0 in buffer.stride()


def _buffers(module: nn.Module) -> dict[str, Tensor | None]:
    return module._buffers  # pyright: ignore[reportPrivateUsage]


def _children(module: nn.Module) -> dict[str, nn.Module | None]:
    return module._modules  # pyright: ignore[reportPrivateUsage]

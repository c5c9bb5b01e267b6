"""How the points of a surface are evaluated fastest on this machine, by short measurements."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn

_CACHED_CHUNKS = (64, 128, 32, 512)
"""Samples of a pass that are tried on a CPU with convolutions: activations of more may not fit its caches."""

_CHUNKS = (512, 128, 2048)
"""The same elsewhere."""

_ROUNDS, _CLEARLY_FASTER, _MEASURING = 3, 0.97, 0.05
"""Timings of each choice; which ratio makes another one better; the part of the work that measuring may take."""

_TOGETHER = (8, 32)
"""Points that are tried in one pass on an accelerator."""


class Timed(Protocol):
    """What is asked of a surface."""

    together: int
    stackable: bool

    def seconds_of(self, count: int) -> float:
        """Return the time of so many points, at once unless it is one, on the slowest rank; infinite if it fails."""
        ...

    @property
    def here(self) -> int:
        """Samples of a point that this rank evaluates."""
        ...

    def seconds(self, form: torch.memory_format, chunk: int) -> float:
        """Return the time of a pass, a sample."""
        ...

    def use(self, form: torch.memory_format, chunk: int) -> None:
        """Evaluate so from now on."""
        ...


def choose(surface: Timed, model: nn.Module, chunk: int | None, points: int) -> None:
    """Choose memory format and samples of a pass by timing a few, as long as that pays.

    Args:
        surface: Is told to use them.
        model: Of the surface.
        chunk: Samples of a pass; None measures.
        points: How many are going to be evaluated.
    """
    images = any(isinstance(module, nn.Conv2d) for module in model.modules())
    cached = images and next(model.parameters()).device.type == "cpu"
    usual, last = torch.contiguous_format, torch.channels_last
    sizes = [chunk] if chunk is not None else list(_CACHED_CHUNKS if cached else _CHUNKS)
    best = (last if images else usual, sizes[0])
    surface.seconds(*best)  # the first pass of all fetches memory
    second = surface.seconds(*best)
    allowed = _MEASURING * points * surface.here * second
    candidates = [(usual, sizes[0])] if images else []
    candidates += [(None, size) for size in sizes[1:] if size <= surface.here]
    for form, size in candidates:
        other = (form or best[0], size)
        allowed -= _ROUNDS * (size + best[1]) * second
        if allowed < 0:
            break
        times: list[tuple[float, float]] = [(surface.seconds(*best), surface.seconds(*other)) for _ in range(_ROUNDS)]
        if min(t for _, t in times) < _CLEARLY_FASTER * min(t for t, _ in times):
            best = other
    surface.use(*best)
    if next(model.parameters()).device.type != "cpu":
        _stack(surface, points)


def _stack(surface: Timed, points: int) -> None:
    """Evaluate several points at once if that is faster, and the model and the memory allow it."""
    best = surface.seconds_of(1)
    for count in _TOGETHER if surface.stackable else ():
        if count > points:
            return
        taken = surface.seconds_of(count) / count
        if taken > _CLEARLY_FASTER * best:
            return
        surface.together, best = count, taken

"""A model at other points of a plane: its parameters hold w + a d1 + b d2, always made anew from w."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sharpkit.core import vec
from sharpkit.core.buffers import Buffers
from sharpkit.core.vec import Vec
from sharpkit.diagnostics.surfaces.plane import Plane

_STATISTIC = "running_var"


class Displaced:
    """Moves the parameters that a plane moves.

    The parameters are lent other memory in the meantime. Nothing is ever written to their own, so that w comes back bit
    for bit whatever happens.

    Args:
        model: At w.
        plane: Of directions.
    """

    def __init__(self, model: nn.Module, plane: Plane) -> None:
        params = dict(model.named_parameters())
        moving = [i for i in range(len(plane.names)) if any(bool(axis[i].any()) for axis in plane.axes)]
        self.plane = plane
        self._model = model
        self._names = [plane.names[i] for i in moving]
        self._params = [params[plane.names[i]] for i in moving]
        self._own = [p.data for p in model.parameters()]
        self._start: Vec = [p.detach() for p in self._params]
        self._axes: list[Vec] = [[axis[i] for i in moving] for axis in plane.axes]
        self._here: Vec = []
        self._statistics = _Statistics(model, plane)
        self.form = torch.contiguous_format
        self.store(self.form)

    @property
    def start(self) -> dict[str, Tensor]:
        """The parameters at w that move, by name."""
        return dict(zip(self._names, self._start, strict=True))

    def store(self, form: torch.memory_format) -> None:
        """Keep weights of four axes in a memory format; go back to w."""
        self.form = form
        self._start = [_formed(t, form) for t in self._start]
        self._axes = [[_formed(t, form) for t in axis] for axis in self._axes]
        self._here = vec.clone(self._start)
        for p, own in zip(self._model.parameters(), self._own, strict=True):
            p.data = _formed(own, form)
        for p, here in zip(self._params, self._here, strict=True):
            p.data = here

    def move(self, a: float, b: float = 0.0) -> None:
        """Go to w + a d1 + b d2."""
        with torch.no_grad():
            vec.copy_(self._here, self._start)
            for axis, amount in zip(self._axes, (a, b), strict=False):
                if self._here:
                    vec.add_(self._here, axis, alpha=amount)
        self._statistics.move(a, b)

    def written(self) -> list[str]:
        """Return notes on the parameters that passes at w have written to since it went there."""
        return [
            f"the forward pass writes to {name}, so that the loss is measured at the values that it leaves there"
            for name, here, start in zip(self._names, self._here, self._start, strict=True)
            if bool((here != start).any())  # w + 0 d makes 0 of -0
        ]

    def give_back(self) -> None:
        """Give the parameters their own memory, and buffers their values."""
        for p, own in zip(self._model.parameters(), self._own, strict=True):
            p.data = own
        self._statistics.buffers.put_back()


class _Statistics:
    """Buffers that move along with the weights, as those between two checkpoints do."""

    def __init__(self, model: nn.Module, plane: Plane) -> None:
        self.buffers = Buffers.of(model)
        held = dict(model.named_buffers())
        self._moving = [
            (held[name], held[name].clone(), [axis[name] for axis in plane.buffers], name.endswith(_STATISTIC))
            for name in (plane.buffers[0] if plane.buffers else ())
        ]

    def move(self, a: float, b: float) -> None:
        """Give every buffer its value at a point; beyond the checkpoints no variance falls below zero."""
        with torch.no_grad():
            for buffer, start, axes, positive in self._moving:
                value = start + sum(amount * axis for amount, axis in zip((a, b), axes, strict=False))
                buffer.copy_(value.clamp_min(0) if positive else value)


@contextmanager
def displaced(model: nn.Module, plane: Plane) -> Generator[Displaced]:
    """Give a model that can be moved over a plane, and put it back at the end."""
    moved = Displaced(model, plane)
    try:
        yield moved
    finally:
        moved.give_back()


def _formed(values: Tensor, form: torch.memory_format) -> Tensor:
    return values.contiguous(memory_format=form) if values.dim() == 4 else values

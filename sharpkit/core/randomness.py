"""Recording and replaying torch's global random state, so that two passes can draw the same dropout masks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

RandomState = list[Tensor]


def capture(device: torch.device) -> RandomState:
    """Return the state of the CPU generator and, elsewhere than on the CPU, of the device's generator."""
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        states.append(_device_module(device).get_rng_state(device))
    return states


def restore(states: RandomState, device: torch.device) -> None:
    """Set the generators to a state that `capture` returned."""
    torch.set_rng_state(states[0].cpu())
    if device.type != "cpu" and len(states) > 1:
        _device_module(device).set_rng_state(states[1].cpu(), device)


class Replayed:
    """A context in which the generators run from a recorded state; afterwards they stand where they stood."""

    def __init__(self, states: RandomState, device: torch.device) -> None:
        self._states = states
        self._device = device
        self._outer: RandomState = []

    def __enter__(self) -> None:
        self._outer = capture(self._device)
        restore(self._states, self._device)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        restore(self._outer, self._device)


def replayed(states: RandomState | None, device: torch.device) -> AbstractContextManager[Any]:
    """Return a `Replayed` context, or one that does nothing where there is no recorded state."""
    return nullcontext() if states is None else Replayed(states, device)


def _device_module(device: torch.device) -> Any:
    module: Callable[[torch.device], Any] = torch.get_device_module
    return module(device)

"""Recording and replaying the global random states, so that two passes can draw the same dropout masks."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Protocol

import torch
from torch import Tensor

from sharpkit.core import host_randomness

RandomState = dict[str, Any]
"""Plain data: the states of torch's generators, `[CPU, device]` as bytes, and of Python's and NumPy's streams.

A stream of Python or NumPy that a pass did not draw from is None, and left alone in its replay.
"""


class Evaluated(Protocol):
    """What is evaluated again and again with the same random choices."""

    randomness: RandomState | None
    """The state before its first evaluation."""


def capture(device: torch.device, like: RandomState | None = None) -> RandomState:
    """Return the state of every global stream, or of Python's and NumPy's only where another state has them."""
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        states.append(_device_module(device).get_rng_state(device))
    return {"torch": states, "host": host_randomness.capture(None if like is None else like["host"])}


def restore(state: RandomState, device: torch.device) -> None:
    """Set the streams to a state that `capture` returned."""
    states: Sequence[Tensor] = state["torch"]
    torch.set_rng_state(states[0].cpu())
    if device.type != "cpu" and len(states) > 1:
        _device_module(device).set_rng_state(states[1].cpu(), device)
    host_randomness.restore(state["host"])


@contextmanager
def undrawn(device: torch.device) -> Generator[None]:
    """Put every global stream back at the end."""
    state = capture(device)
    try:
        yield
    finally:
        restore(state, device)


def of_stored(stored: RandomState | list[Tensor]) -> RandomState:
    """Return a state from a file; earlier versions stored those of torch's generators alone."""
    if isinstance(stored, list):
        return {"torch": stored, "host": {"python": None, "numpy": None}}
    return stored


def seed(number: int) -> None:
    """Seed every global stream: torch's on all devices, Python's, and NumPy's if it is imported."""
    torch.manual_seed(number)
    host_randomness.seed(number)


def only(state: RandomState, like: RandomState) -> RandomState:
    """Return a state with those streams of Python and NumPy only that another state has."""
    host = {k: v if like["host"][k] is not None else None for k, v in state["host"].items()}
    return {"torch": state["torch"], "host": host}


def to_tensors(state: RandomState) -> list[Tensor]:
    """Return a state as tensors on the CPU, of the same shapes for every state of a device."""
    return [*state["torch"], host_randomness.encoded(state["host"])]


def forms(state: RandomState) -> list[Tensor]:
    """Return tensors without values of the types and shapes that `to_tensors` returns."""
    host = torch.empty(host_randomness.ENCODED, dtype=torch.int64, device="meta")
    return [*(torch.empty_like(t, device="meta") for t in state["torch"]), host]


def from_tensors(tensors: Sequence[Tensor]) -> RandomState:
    """Return the state that `to_tensors` was given."""
    *states, host = (t.clone() for t in tensors)  # torch takes no views of a message for a state
    return {"torch": states, "host": host_randomness.decoded(host)}


class SameDraws:
    """A context in which something is evaluated with the random choices of its first evaluation.

    The first one records the state that it starts from. Later ones start from that state, and afterwards the streams
    stand where they stood.

    Args:
        work: Is evaluated, and remembers the state.
        device: Where.
    """

    def __init__(self, work: Evaluated, device: torch.device) -> None:
        self._work = work
        self._device = device
        self._outer: RandomState | None = None

    def __enter__(self) -> None:
        recorded = self._work.randomness
        if recorded is None:
            self._work.randomness = capture(self._device)
        else:
            self._outer = capture(self._device, recorded)
            restore(recorded, self._device)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._outer is not None:
            restore(self._outer, self._device)
        elif (first := self._work.randomness) is not None:
            host = host_randomness.drawn(first["host"], host_randomness.capture())
            self._work.randomness = {"torch": first["torch"], "host": host}


def _device_module(device: torch.device) -> Any:
    module: Callable[[torch.device], Any] = torch.get_device_module
    return module(device)

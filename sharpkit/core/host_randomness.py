"""The global random streams of Python's `random` and of NumPy, from which models drop layers and mix samples."""

from __future__ import annotations

import ctypes
import random
import struct
import sys
from collections.abc import Mapping
from typing import Any, Literal, cast

import torch
from torch import Tensor

from sharpkit.errors import UsageError

HostState = dict[Literal["python", "numpy"], Any]
"""Numbers, lists and dicts: Python's state and NumPy's; None where a stream is left alone."""

_WORDS = 624  # of a Mersenne Twister
_PYTHON, _NUMPY = _WORDS + 4, _WORDS + 4

ENCODED = _PYTHON + _NUMPY
"""The number of integers that `encoded` returns."""

_latest: dict[str, tuple[bytes, Any]] = {}  # of a stream, the words in its generator's memory and the state they are


def capture(like: HostState | None = None) -> HostState:
    """Return the states of both streams, or of those only that are in another state.

    Reading them takes 10 us for Python's and 40 us for NumPy's, and 2 us where nobody has drawn since the last time.
    """
    return {
        "python": _python() if like is None or like["python"] is not None else None,
        "numpy": _numpy() if like is None or like["numpy"] is not None else None,
    }


def restore(state: HostState) -> None:
    """Set the streams to a state that `capture` returned; NumPy's if it is imported."""
    if (stream := state["python"]) is not None:
        version, words, gauss = stream
        random.setstate((version, tuple(words), gauss))
        _remember("python", stream)
    stream, module = state["numpy"], _numpy_random()
    if stream is not None and module is not None and _numpy() != stream:
        module.set_state(stream)
        _remember("numpy", stream)


def drawn(before: HostState, after: HostState) -> HostState:
    """Return the states before, of those streams only that somebody has drawn from since."""
    return {
        "python": before["python"] if before["python"] != after["python"] else None,
        "numpy": before["numpy"] if before["numpy"] != after["numpy"] else None,
    }


def seed(number: int) -> None:
    """Seed both streams; NumPy's if it is imported."""
    random.seed(number)
    if (module := _numpy_random()) is not None:
        module.seed(number % 2**32)


def encoded(state: HostState) -> Tensor:
    """Return a state as (`ENCODED`,) int64 numbers.

    Raises:
        UsageError: If NumPy's global generator is no Mersenne Twister.
    """
    numbers = [0] * ENCODED
    if state["python"] is not None:
        _, words, gauss = state["python"]
        numbers[:_PYTHON] = [*words, gauss is not None, _bits(gauss or 0.0), True]
    if (stream := state["numpy"]) is not None:
        if not _is_twister(stream):
            kind = stream["bit_generator"]
            raise UsageError(
                f"NumPy's global generator is {kind}, whose state two ranks do not exchange, allowed is MT19937",
                "do not call numpy.random.set_bit_generator",
            )
        inner = stream["state"]
        numbers[_PYTHON:] = [*inner["key"], inner["pos"], stream["has_gauss"], _bits(stream["gauss"]), True]
    return torch.tensor(numbers, dtype=torch.int64)


def decoded(numbers: Tensor) -> HostState:
    """Return the state that `encoded` was given."""
    values = cast("list[int]", numbers.tolist())
    *words, has_gauss, gauss, has_python = values[:_PYTHON]
    *key, position, has_normal, normal, has_numpy = values[_PYTHON:]
    stream = {
        "bit_generator": "MT19937",
        "state": {"key": key, "pos": position},
        "has_gauss": has_normal,
        "gauss": _number(normal),
    }
    python = (random.getstate()[0], tuple(words), _number(gauss) if has_gauss else None)
    return {"python": python if has_python else None, "numpy": stream if has_numpy else None}


def _numpy_random() -> Any:
    """Return `numpy.random` if it is imported; a program that has not imported it has not drawn from it."""
    return sys.modules.get("numpy.random")


def _python() -> Any:
    """Return Python's state, the same object as before where nobody has drawn since."""
    words = _words_of_python()
    latest = _latest.get("python")
    if latest is not None and words == latest[0]:
        return latest[1]
    state = random.getstate()
    _remember("python", state)
    return state


def _numpy() -> Any:
    """Return NumPy's state, the same object as before where nobody has drawn since; None where it is not imported."""
    module = _numpy_random()
    if module is None:
        return None
    latest = _latest.get("numpy")
    if latest is not None and _words_of_numpy() == latest[0]:
        return latest[1]
    state: dict[str, Any] = module.get_state(legacy=False)
    state["state"] = {k: v.tolist() if hasattr(v, "tolist") else v for k, v in state["state"].items()}
    _remember("numpy", state)
    return state


def _remember(name: Literal["python", "numpy"], state: Any) -> None:
    """Keep a stream's present state with its words, if they tell whether somebody has drawn.

    They do not tell where a normal number is stored, which is drawn without a change of the words.
    """
    _latest.pop(name, None)
    if name == "python":
        *key, position = state[1]
        words, expected = _words_of_python(), struct.pack(f"=i{_WORDS}I", position, *key)
    elif _is_twister(state) and not state["has_gauss"]:
        key, position = state["state"]["key"], state["state"]["pos"]
        words, expected = _words_of_numpy(), struct.pack(f"={_WORDS}Ii", *key, position)
    else:
        return
    if words == expected:  # else they lie elsewhere in memory, and the state is read every time
        _latest[name] = expected, state


def _words_of_python() -> bytes | None:
    """Return the memory of Python's global generator, position and key, which CPython has behind an object's head.

    None on another Python, and where a normal number is stored.
    """
    generator = getattr(random.random, "__self__", None)
    if type(generator) is not random.Random or sys.implementation.name != "cpython":
        return None
    if getattr(generator, "gauss_next", None) is not None:
        return None
    return ctypes.string_at(id(generator) + object.__basicsize__, 4 * _WORDS + 4)


def _words_of_numpy() -> bytes | None:
    """Return the memory of NumPy's global generator, key and position; None where it is of another kind."""
    generator = _numpy_random().get_bit_generator()
    if type(generator).__name__ != "MT19937":
        return None
    return ctypes.string_at(generator.ctypes.state_address, 4 * _WORDS + 4)


def _is_twister(state: Mapping[str, Any]) -> bool:
    return state["bit_generator"] == "MT19937"


def _bits(number: float) -> int:
    return struct.unpack("=q", struct.pack("=d", number))[0]


def _number(bits: int) -> float:
    return struct.unpack("=d", struct.pack("=q", bits))[0]

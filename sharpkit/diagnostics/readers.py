"""Which operations read the output of a layer, seen from below autograd during a pass."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_TO_HOST: frozenset[Any] = frozenset({Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.__dlpack__})
"""Functions that read a tensor without an operation."""


@dataclass
class _Output:
    """A tensor that is watched, held so that its memory is not given to another one."""

    tensor: Tensor
    read: bool = False


class Readers(TorchDispatchMode):
    """Notes which of the watched tensors an operation reads or writes, be it recorded by autograd or not.

    Views and detached copies share the memory of a tensor, and making one counts as reading it.
    """

    def __init__(self) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self._outputs: dict[int, _Output] = {}
        self._unnoticed: int | None = None

    def watch(self, tensor: Tensor) -> None:
        """Watch a tensor from now on; one without memory of its own counts as read."""
        memory = _memory_of(tensor)
        if memory is not None:
            self._outputs[memory] = _Output(tensor)

    @contextmanager
    def not_noticing(self, tensor: Tensor) -> Generator[None]:
        """Let a tensor be read while the context lasts."""
        before, self._unnoticed = self._unnoticed, _memory_of(tensor)
        try:
            yield
        finally:
            self._unnoticed = before

    def is_read(self, tensor: Tensor) -> bool:
        """Return whether a watched tensor has been read, its gradient changed or kept, or was never watched."""
        found = self._outputs.get(_memory_of(tensor) or 0)
        hooked: Any = tensor
        hooks = hooked._backward_hooks or (hooked.requires_grad and hooked.retains_grad)
        return found is None or found.tensor is not tensor or found.read or bool(hooks)

    def note(self, values: Any) -> None:
        """Note that the tensors in some arguments are used."""
        for tensor in _tensors_in(values):
            memory = _memory_of(tensor)
            if memory in self._outputs and memory != self._unnoticed:
                self._outputs[memory].read = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Answer no: keeping the compiler out of this class would import it, which takes seconds."""
        return False

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        """Note what an operation is given, and run it."""
        self.note((args, kwargs or {}))
        return func(*args, **(kwargs or {}))


class ToHost(TorchFunctionMode):
    """Notes which tensors are read without an operation, such as by `tolist()`."""

    def __init__(self, readers: Readers) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self._readers = readers

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Note what a function is given, and call it."""
        if func in _TO_HOST:
            self._readers.note(args)
        return func(*args, **(kwargs or {}))


def kept(tensors: list[Tensor]) -> list[bool]:
    """Return which tensors something else still holds; the list is emptied."""
    references = [weakref.ref(tensor) for tensor in tensors]
    tensors.clear()
    return [reference() is not None for reference in references]


def _memory_of(tensor: Tensor) -> int | None:
    """Return a number that tensors share which share memory; None of one that has none of its own."""
    try:
        return tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]
    except (NotImplementedError, RuntimeError):  # of a transform of functorch, for example
        return None


def _tensors_in(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping):
        for value in cast("Mapping[Any, Any]", values).values():
            yield from _tensors_in(value)
    elif isinstance(values, list | tuple):
        for value in cast("Sequence[Any]", values):
            yield from _tensors_in(value)

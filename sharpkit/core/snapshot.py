"""Everything of a model that a pass through it can write to, as it was at a moment, to be put back."""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integer types by their bytes: tensors are compared as these, since 0 equals -0 and no NaN equals itself."""

_KINDS: tuple[type[Any], ...] = (nn.Module, Tensor, dict, list, set, deque, tuple)

_Container = dict[Any, Any] | list[Any] | set[Any] | deque[Any]


class Snapshot:
    """A model's tensors, gradients, flags, modes, hooks, attributes and random generators, bit for bit.

    It holds every module that the model reaches through its attributes and the containers in them, each module's class
    and attributes, the entries of containers, the values of tensors, and the states of generators. An object of another
    kind that an attribute holds comes back as the same object; what a pass writes inside it stays written.

    Args:
        model: At that moment. Parameters that are not initialised yet are left out, with the modules that hold them.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules: list[tuple[nn.Module, type[nn.Module], dict[str, Any]]] = []
        self._containers: list[tuple[_Container, list[Any]]] = []
        self._tensors: list[tuple[Tensor, bool, Tensor, Tensor]] = []
        self._leaves: list[tuple[Tensor, bool, Tensor | None]] = []
        self._generators: list[Callable[[], None]] = []
        self._seen: dict[int, object] = {}  # the objects are held, so that an id stays its own
        self._visit(model)

    def put_back(self) -> None:
        """Give everything back what it held."""
        for module, kind, attributes in self._modules:
            if type(module) is not kind:
                module.__class__ = kind
            held = vars(module)
            for name in held.keys() - attributes.keys():
                del held[name]
            for name, value in attributes.items():
                if name not in held or held[name] is not value:
                    held[name] = value
        for container, entries in self._containers:
            if not _alike(_entries(container), entries):
                _refill(container, entries)
        with torch.no_grad():
            for tensor, made, own, copy in self._tensors:
                if tensor.grad_fn is not None and not made:
                    tensor.detach_()  # an operation in place has made it a result
                _put_back(tensor, own, copy)
        for tensor, requires_grad, grad in self._leaves:
            if tensor.requires_grad is not requires_grad:
                tensor.requires_grad_(requires_grad)
            if tensor.grad is not grad:
                tensor.grad = grad
        for put_back in self._generators:
            put_back()

    def _visit(self, value: Any) -> None:
        """Take what a value holds; of kinds that cannot be written to, and of unknown ones, nothing."""
        if id(value) in self._seen or not (isinstance(value, _KINDS) or _is_generator(value)):
            return
        self._seen[id(value)] = value
        if isinstance(value, nn.Module):
            self._take_module(value)
        elif isinstance(value, Tensor):
            self._take_tensor(value)
        elif isinstance(value, tuple):
            self._visit_all(cast("tuple[Any, ...]", value))
        elif isinstance(value, dict | list | set | deque):
            container = cast("_Container", value)
            self._containers.append((container, _entries(container)))
            self._visit_all(container.values() if isinstance(container, dict) else container)
        else:
            self._generators.append(_stream(value))

    def _visit_all(self, values: Any) -> None:
        for value in values:
            self._visit(value)

    def _take_module(self, module: nn.Module) -> None:
        if any(is_lazy(t) for t in (*module.parameters(recurse=False), *module.buffers(recurse=False))):
            self._visit_all(module.children())
            return
        self._modules.append((module, type(module), dict(vars(module))))
        self._visit_all(vars(module).values())
        if isinstance(module, torch.jit.ScriptModule):  # what it holds is no Python attribute
            self._visit_all((*module.parameters(), *module.buffers()))

    def _take_tensor(self, tensor: Tensor) -> None:
        if is_lazy(tensor) or tensor.is_meta:
            return
        if tensor.is_leaf:
            self._leaves.append((tensor, tensor.requires_grad, tensor.grad))
            if tensor.grad is not None:
                self._visit(tensor.grad)
        if tensor.layout is torch.strided and not _is_expanded(tensor):
            self._tensors.append((tensor, tensor.grad_fn is not None, tensor.data, tensor.detach().clone()))


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors of one type and shape are the same, bit for bit."""
    return torch.equal(_integers(a.detach()), _integers(b.detach()))


def _put_back(tensor: Tensor, own: Tensor, copy: Tensor) -> None:
    moved = tensor.data_ptr() != own.data_ptr() or tensor.stride() != own.stride()
    if moved or tensor.dtype != own.dtype or tensor.shape != own.shape:
        tensor.data = own
    if not same_bits(tensor, copy):
        tensor.copy_(copy)


def _integers(values: Tensor) -> Tensor:
    if values.is_quantized:
        return values.int_repr()
    real = torch.view_as_real(values.resolve_conj()) if values.is_complex() else values
    return real.view(_INTEGERS[real.element_size()])


def _is_expanded(tensor: Tensor) -> bool:
    """Return whether entries share memory, so that nothing can have written to the tensor in place."""
    return not tensor.is_contiguous() and 0 in tensor.stride()


def _entries(container: _Container) -> list[Any]:
    return list(container.items()) if isinstance(container, dict) else list(container)


def _alike(now: list[Any], before: list[Any]) -> bool:
    """Return whether entries are the same objects in the same order."""
    if len(now) != len(before):
        return False
    pairs = zip(now, before, strict=True)
    if now and isinstance(now[0], tuple) and isinstance(before[0], tuple):  # of a dict, whose pairs are made anew
        return all(a is b or (len(a) == len(b) and all(map(_is, a, b))) for a, b in pairs)
    return all(a is b for a, b in pairs)


def _is(a: Any, b: Any) -> bool:
    return a is b


def _refill(container: _Container, entries: list[Any]) -> None:
    container.clear()
    if isinstance(container, dict | set):
        container.update(entries)
    else:
        container.extend(entries)


def _is_generator(value: Any) -> bool:
    numpy: Any = sys.modules.get("numpy")
    kinds = (torch.Generator, random.Random)
    return isinstance(value, kinds) or (
        numpy is not None and isinstance(value, numpy.random.Generator | numpy.random.RandomState)
    )


def _stream(generator: Any) -> Callable[[], None]:
    """Return what puts a generator back to the state that it has now."""
    if isinstance(generator, torch.Generator):
        state = generator.get_state()
        return lambda: cast("None", generator.set_state(state))
    if isinstance(generator, random.Random):
        python = generator.getstate()
        return lambda: generator.setstate(python)
    if hasattr(generator, "get_state"):
        legacy = generator.get_state()
        return lambda: generator.set_state(legacy)
    bits = generator.bit_generator
    held = bits.state

    def put_back() -> None:
        bits.state = held

    return put_back

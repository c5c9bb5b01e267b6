"""A double of a base optimizer, with weights of its own, that can step in its place."""

from __future__ import annotations

import copy
import enum
import importlib
import sys
import types
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from sharpkit.errors import UsageError, one_line

_HOOKS = frozenset(
    f"_optimizer_{event}_{side}_hooks"
    for event in ("step", "state_dict", "load_state_dict")
    for side in ("pre", "post")
)
_FRAMEWORKS = {
    "accelerate": "optimizer",
    "lightning": "optimizer",
    "lightning_fabric": "optimizer",
    "pytorch_lightning": "optimizer",
}
"""Packages whose wrappers step the optimizer that they hold as it is, and where they hold it."""

_ATOMS = (
    *(type(None), bool, int, float, complex, str, bytes, range, type, enum.Enum),
    *(types.BuiltinFunctionType, types.ModuleType, torch.dtype, torch.device, torch.memory_format, torch.layout),
)

_EMPTY: dict[Any, Callable[[Any], tuple[Any, ...]]] = {
    defaultdict: lambda x: (x.default_factory,),
    deque: lambda x: ((), x.maxlen),
}
"""What an empty container like another is made with."""


def unwrapped(base: Optimizer) -> Optimizer:
    """Return the optimizer inside of a training framework's wrapper, which steps it as it is."""
    while True:
        place = _FRAMEWORKS.get(type(base).__module__.partition(".")[0])
        held = getattr(base, place, None) if place else None
        if not isinstance(held, Optimizer) or held is base:
            return base
        base = held


def steps_as_its_class(base: Optimizer) -> bool:
    """Return whether the step is that of the class, at most counted by a scheduler."""
    return "step" not in vars(base) or hasattr(vars(base)["step"], "_wrapped_by_lr_sched")


class Double:
    """An optimizer of the same kind, state and hyperparameters, on copies of the parameters.

    All that the optimizer holds is copied, at any depth, with the parameters' copies in place of the parameters; its
    hooks are not, so that a scheduler or a logger attached to the real one does not see the steps of the double.

    Args:
        base: Any optimizer that holds numbers, tensors, containers, modules or other optimizers.

    Raises:
        UsageError: If something that it holds cannot be copied, or leads from the copy back to the real one.
    """

    def __init__(self, base: Optimizer) -> None:
        self._memo: dict[int, Any] = {}
        self._alive: list[Any] = []  # an id stays that of one thing only while the thing lives
        try:
            for group in base.param_groups:
                for p in group["params"]:
                    self._parameter(p)
            self._ids = {id(p): id(self.of(p)) for p in self._alive}  # some keep a parameter's state under its id
            held = {_storage(p) for p in self._alive} - {0}
            self._optimizer: Any = self._copy(base)
        except _SharedError as reason:
            raise _refused(base, str(reason)) from None
        except Exception as error:
            raise _refused(base, f"it could not be copied ({one_line(error)})") from error
        if any(id(t) not in self._ids and _storage(t) in held for t in self._alive if isinstance(t, Tensor)):
            raise _refused(base, "it keeps views of the weights")

    def of(self, parameter: Tensor) -> Tensor:
        """Return the double's copy of a parameter."""
        return self._memo[id(parameter)]

    def step(self) -> None:
        """Call the optimizer's own step, past every hook and past the counting step that schedulers bind to it."""
        with _without_global_hooks():
            _own_step(_kind(self._optimizer))(self._optimizer)

    def _parameter(self, p: Tensor) -> None:
        if id(p) not in self._memo:
            twin: Any = copy.deepcopy(p)
            twin.grad = None
            twin.__dict__.update(p.__dict__)  # marks such as "no weight decay"
            self._keep(p, twin)

    def _keep(self, x: Any, twin: Any) -> None:
        self._memo[id(x)] = twin
        self._alive.append(x)

    def _copy(self, x: Any) -> Any:
        if id(x) in self._memo:
            return self._memo[id(x)]
        if isinstance(x, _ATOMS):
            return self._ids.get(x, x) if type(x) is int else x
        if isinstance(x, Optimizer) or _is_plain(x):
            return self._copy_attributes(x)
        if isinstance(x, Tensor):
            twin: Any = copy.deepcopy(x, self._memo) if x.is_leaf else x.detach().clone()
        elif isinstance(x, types.FunctionType):
            _check_function(x)
            twin = x
        elif isinstance(x, types.MethodType):
            twin = types.MethodType(x.__func__, self._copy(x.__self__))
        elif type(x) in (dict, OrderedDict, defaultdict, list, set, deque):
            return self._copy_container(x)
        elif isinstance(x, tuple | frozenset):
            kind, parts = _kind(x), [self._copy(value) for value in cast("Sequence[Any]", x)]
            twin = kind(*parts) if hasattr(kind, "_fields") else kind(parts)
        else:
            twin = self._copy_object(x)
        self._keep(x, twin)
        return twin

    def _copy_attributes(self, x: Any) -> Any:
        """Build it past `__init__` and `__getstate__`, so that any class works, and all that it holds is copied."""
        twin: Any = object.__new__(_kind(x))
        self._keep(x, twin)
        for name, value in cast("dict[str, Any]", vars(x)).items():
            if name in _HOOKS:
                twin.__dict__[name] = OrderedDict()
            elif name != "step" or not isinstance(x, Optimizer):
                twin.__dict__[name] = self._copy(value)
            elif not steps_as_its_class(x):
                raise _SharedError("its step was replaced on the instance")
        return twin

    def _copy_container(self, x: Any) -> Any:
        kind = _kind(x)
        twin = kind(*_EMPTY.get(kind, lambda _: ())(x))
        self._keep(x, twin)
        if isinstance(x, dict):
            for key, value in cast("dict[Any, Any]", x).items():
                twin[self._copy(key)] = self._copy(value)
        else:
            add = twin.add if isinstance(x, set) else twin.append
            for value in cast("list[Any]", x):
                add(self._copy(value))
        return twin

    def _copy_object(self, x: Any) -> Any:
        if isinstance(x, weakref.ReferenceType):
            raise _SharedError("it keeps weak references")
        known = set(self._memo)
        twin = copy.deepcopy(x, self._memo)
        # What deepcopy went through is listed under the memo's own id.
        for part in self._memo.pop(id(self._memo), []):
            self._alive.append(part)
            if isinstance(part, Optimizer) and id(part) not in known:
                raise _SharedError(f"an optimizer lies inside its {type(x).__name__}")
            for value in getattr(part, "__dict__", {}).values():
                if isinstance(value, types.FunctionType):
                    _check_function(value)
        return twin


class _SharedError(Exception):
    """What is held leads back to the real optimizer."""


def _kind(x: Any) -> Any:
    return cast("Any", type(x))


def _is_plain(x: Any) -> bool:
    """Return whether an object is what its attributes are."""
    kind = _kind(x)
    special = ("__deepcopy__", "__copy__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__slots__")
    return (
        hasattr(x, "__dict__")
        and all(getattr(kind, name, None) is getattr(object, name, None) for name in special)
        and kind.__new__ is object.__new__
    )


def _check_function(function: types.FunctionType) -> None:
    function = getattr(function, "_torchdynamo_orig_callable", function)
    if getattr(sys.modules.get(function.__module__), function.__qualname__, None) is function:
        return  # a module's own, which knows no instance
    for cell in function.__closure__ or ():
        try:
            inside = cell.cell_contents
        except ValueError:  # not filled yet
            continue
        if not isinstance(inside, (*_ATOMS, types.FunctionType)):
            raise _SharedError(f"its function {function.__name__} holds a {type(inside).__name__}")


def _refused(base: Optimizer, reason: str) -> UsageError:
    return UsageError(
        f"the step of {type(base).__name__} cannot be tried out without changing it: {reason}",
        "use a rule with y_step=plain, which looks ahead by w - lr * direction",
    )


def _own_step(kind: Any) -> Any:
    return kind.step.__wrapped__ if getattr(kind.step, "hooked", False) else kind.step


@contextmanager
def _without_global_hooks() -> Generator[None]:
    """Keep hooks for all optimizers from the steps of those that the double holds."""
    hooked = importlib.import_module("torch.optim.optimizer")
    names = ("_global_optimizer_pre_hooks", "_global_optimizer_post_hooks")
    before = {name: getattr(hooked, name) for name in names}
    for name in names:
        setattr(hooked, name, OrderedDict[int, Any]())
    try:
        yield
    finally:
        for name, hooks in before.items():
            setattr(hooked, name, hooks)


def _storage(t: Any) -> int:
    """Return the address of a tensor's memory; 0 where it has none that can be told."""
    try:
        return t.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):
        return 0

"""The user's own functions and classes: `file.py:function` and `module:Class`."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import random
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import torch

from sharpkit.errors import InputError, SharpkitError, UsageError, one_line

T = TypeVar("T")

_ANY = (Exception, SystemExit)  # a user's file may call sys.exit, which must not end a run without a word


def is_file_reference(name: str) -> bool:
    """Return whether a name has the form file.py:function."""
    return ".py:" in name


def short_name(reference: str) -> str:
    """Return the file's stem and the function of file.py:function, for names of runs."""
    path, _, function = reference.rpartition(":")
    return f"{Path(path).stem}.{function}"


def from_file(reference: str) -> Callable[..., Any]:
    """Return the function that `file.py:function` names.

    Raises:
        InputError: If the file is missing or cannot be imported, or has no such function.
    """
    path_text, _, name = reference.rpartition(":")
    path = Path(path_text)
    if not path.is_file():
        raise InputError(f"the file {path_text} does not exist", "give file.py:function with a path from here")
    _search(path.resolve().parent)
    spec = importlib.util.spec_from_file_location(f"sharpkit_user_{path.stem}", path.resolve())
    if spec is None or spec.loader is None:
        raise InputError(f"{path_text} is not a Python file", "give file.py:function")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except _ANY as error:
        raise InputError(f"{path_text} failed on import: {_told(error)}", "correct the file") from error
    return _member(module, name, path_text)


def from_module(reference: str) -> Any:
    """Return the object that `module:Name` names.

    Raises:
        InputError: If the module or the name does not exist.
    """
    module_name, _, name = reference.partition(":")
    _search(Path.cwd())
    try:
        module = importlib.import_module(module_name)
    except _ANY as error:
        raise InputError(
            f"cannot import {module_name}: {_told(error)}", "install it, or correct module:Class"
        ) from error
    return _member(module, name, module_name)


def call(function: Callable[..., T], reference: str, *arguments: Any) -> T:
    """Call a user's function with as many of the arguments as it takes.

    Raises:
        InputError: If it raises.
    """
    try:
        return function(*arguments[: _positions(function)])
    except SharpkitError:
        raise
    except _ANY as error:
        raise InputError(f"{reference} raised {_told(error)}", "see --traceback") from error


def takes(function: Callable[..., Any]) -> set[str]:
    """Return the names of a function's parameters; none where Python cannot tell."""
    return set(_parameters(function))


def seed(number: int) -> None:
    """Seed every global stream that a user's file may draw from: torch's, NumPy's and Python's."""
    torch.manual_seed(number)
    np.random.seed(number)
    random.seed(number)


def _positions(function: Callable[..., Any]) -> int | None:
    """Return how many positional arguments a function takes; None for any number."""
    kinds = [p.kind for p in _parameters(function).values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return None
    return sum(kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD) for kind in kinds)


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # some built-in classes have no signature
        return {}


def _search(folder: Path) -> None:
    """Have imports look into a folder, as they do for a script that Python runs from there."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {one_line(error)}" if str(error) else type(error).__name__


def choose(name: str, table: Mapping[str, T], what: str, more: str = "or file.py:function") -> T:
    """Return an entry of a table of names.

    Args:
        name: As the user gave it.
        table: What is known by name.
        what: What to call the entries in messages.
        more: What else is allowed, at the end of the list.

    Raises:
        UsageError: If there is none of that name.
    """
    if name in table:
        return table[name]
    close = difflib.get_close_matches(name, table, n=1)
    guess = f"did you mean {close[0]!r}? " if close else ""
    raise UsageError(f"unknown {what} {name!r}", f"{guess}allowed: {', '.join(table)}, {more}")


def _member(module: ModuleType, name: str, where: str) -> Any:
    member = getattr(module, name, None)
    if callable(member):
        return member
    names = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
    close = difflib.get_close_matches(name, names, n=1)
    raise InputError(
        f"{where} has no function {name!r}", f"did you mean {close[0]!r}?" if close else "correct the name after ':'"
    )

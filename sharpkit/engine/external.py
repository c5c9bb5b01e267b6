"""The user's own functions and classes: `file.py:function` and `module:Class`."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from sharpkit.errors import InputError, SharpkitError, UsageError

T = TypeVar("T")


def is_file_reference(name: str) -> bool:
    """Return whether a name has the form file.py:function."""
    return ".py:" in name


def from_file(reference: str) -> Callable[..., Any]:
    """Return the function that `file.py:function` names.

    Raises:
        InputError: If the file is missing or cannot be imported, or has no such function.
    """
    path_text, _, name = reference.rpartition(":")
    path = Path(path_text)
    if not path.is_file():
        raise InputError(f"the file {path_text} does not exist", "give file.py:function with a path from here")
    spec = importlib.util.spec_from_file_location(f"sharpkit_user_{path.stem}", path.resolve())
    if spec is None or spec.loader is None:
        raise InputError(f"{path_text} is not a Python file", "give file.py:function")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(
            f"{path_text} failed on import: {type(error).__name__}: {error}", "correct the file"
        ) from error
    return _member(module, name, path_text)


def from_module(reference: str) -> Any:
    """Return the object that `module:Name` names.

    Raises:
        InputError: If the module or the name does not exist.
    """
    module_name, _, name = reference.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise InputError(f"cannot import {module_name}: {error}", "install it, or correct module:Class") from error
    return _member(module, name, module_name)


def call(function: Callable[..., T], reference: str, *arguments: Any) -> T:
    """Call a user's function with as many of the arguments as it takes.

    Raises:
        InputError: If it raises.
    """
    accepted = [
        p
        for p in inspect.signature(function).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty
    ]
    try:
        return function(*arguments[: len(accepted)])
    except SharpkitError:
        raise
    except Exception as error:
        raise InputError(f"{reference} raised {type(error).__name__}: {error}", "see --traceback") from error


def choose(name: str, table: Mapping[str, T], what: str) -> T:
    """Return an entry of a table of names.

    Raises:
        UsageError: If there is none of that name.
    """
    if name in table:
        return table[name]
    close = difflib.get_close_matches(name, table, n=1)
    guess = f"did you mean {close[0]!r}? " if close else ""
    raise UsageError(f"unknown {what} {name!r}", f"{guess}allowed: {', '.join(table)}, or file.py:function")


def _member(module: ModuleType, name: str, where: str) -> Any:
    member = getattr(module, name, None)
    if callable(member):
        return member
    names = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
    close = difflib.get_close_matches(name, names, n=1)
    raise InputError(
        f"{where} has no function {name!r}", f"did you mean {close[0]!r}?" if close else "correct the name after ':'"
    )

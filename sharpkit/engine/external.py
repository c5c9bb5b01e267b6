"""The user's own functions and classes: `file.py:function` and `module:Class`."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import random
import sys
import sysconfig
from collections.abc import Callable, Mapping
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, TypeVar

import numpy as np
import torch

from sharpkit.engine import trusted_code
from sharpkit.engine.trusted_code import Code
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


def from_file(reference: str, option: str) -> Callable[..., Any]:
    """Return the function that `file.py:function` names.

    Args:
        reference: The file and the function.
        option: The option that names it, such as `--model`.

    Raises:
        InputError: If the file is missing or cannot be imported, has no such function, or is named by a checkpoint
            without the user's permission.
    """
    path_text, _, name = reference.rpartition(":")
    path = Path(path_text)
    if not path.is_file():
        raise InputError(f"the file {path_text} does not exist", "give file.py:function with a path from here")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path_text} cannot be read: {one_line(error)}", "give another file") from error
    trusted_code.admit([trusted_code.code_of(path, content, name)], reference, option)
    _search(path.resolve().parent)
    module_name = f"sharpkit_user_{path.stem}"
    loader = _Loader(module_name, str(path.resolve()), content)
    spec = importlib.util.spec_from_loader(module_name, loader)
    if spec is None:
        raise InputError(f"{path_text} is not a Python file", "give file.py:function")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        loader.exec_module(module)
    except _ANY as error:
        raise InputError(f"{path_text} failed on import: {_told(error)}", "correct the file") from error
    return _member(module, name, path_text)


class _Loader(SourceFileLoader):
    """A loader of source code that was read before: what runs is what was checked, and not a cached compilation."""

    def __init__(self, name: str, path: str, content: bytes) -> None:
        super().__init__(name, path)
        self._content = content

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self._content, self.path)


def from_module(reference: str, option: str, kind: type[Any]) -> Any:
    """Return the object that `module:Name` names.

    Args:
        reference: The module and the name.
        option: The option that names it, such as `--base`.
        kind: A class; a checkpoint may name subclasses of it in installed libraries that are known.

    Raises:
        InputError: If the module or the name does not exist, or a checkpoint names it without the user's permission.
    """
    module_name, _, name = reference.partition(":")
    if trusted_code.is_requested(reference):  # else not yet: a downloaded folder may have files named like a library
        _search(Path.cwd())
    if _in_library(module_name):
        member = _member(_imported(module_name), name, module_name)
        if isinstance(member, type) and issubclass(member, kind):
            return member
    trusted_code.admit(_codes(module_name, name), reference, option)
    _search(Path.cwd())
    return _member(_imported(module_name), name, module_name)


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except _ANY as error:
        raise InputError(f"cannot import {name}: {_told(error)}", "install it, or correct module:Class") from error


_LIBRARIES = ("torch", "timm", "pytorch_optimizer")


def _in_library(module: str) -> bool:
    """Return whether a module is of one of some libraries, and that library is the installed one."""
    top = module.partition(".")[0]
    spec = _spec(top, sys.path) if top in _LIBRARIES else None
    if spec is None or spec.origin is None:
        return False
    installed = [Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")]
    installed.append(Path(torch.__file__).parent.parent)
    return Path(spec.origin).resolve().parent.parent in [folder.resolve() for folder in installed]


def _codes(module: str, member: str) -> list[Code]:
    """Return the files that the import of a module runs, of its packages too, without running any; none if unknown."""
    here = str(Path.cwd())
    places: list[str] | None = sys.path if here in sys.path else [here, *sys.path]
    codes: list[Code] = []
    names = module.split(".")
    for count in range(1, len(names) + 1):
        spec = _spec(".".join(names[:count]), places)
        if spec is None:
            return []
        if spec.has_location and spec.origin is not None:
            try:
                codes.append(trusted_code.code_of(Path(spec.origin), Path(spec.origin).read_bytes(), member))
            except OSError:
                return []
        elif spec.submodule_search_locations is None:  # built into Python: no file to compare
            return []
        places = None if spec.submodule_search_locations is None else list(spec.submodule_search_locations)
        if places is None and count < len(names):
            return []
    return codes


def _spec(name: str, places: list[str] | None) -> ModuleSpec | None:
    """Return where a module would be imported from, without importing it or its packages."""
    try:
        if (spec := PathFinder.find_spec(name, places)) is not None:
            return spec
        finders = [finder for finder in sys.meta_path if finder is not PathFinder]  # those of editable installations
        top = "." not in name
        found = (finder.find_spec(name, None if top else places) for finder in finders)
        return next((spec for spec in found if spec is not None), None)
    except (ImportError, AttributeError, ValueError):
        return None


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

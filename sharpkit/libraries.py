"""Optional libraries: imported when something of theirs is asked for, and told in one line where they do not work."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch

from sharpkit.errors import InputError, one_line

_EXTRAS = {"torchvision": "vision", "timm": "timm", "transformers": "hf"}
"""The extra that installs a library."""


def imported(library: str, what: str) -> Any:
    """Return a library, or say what to do where it is missing or broken.

    Args:
        library: `torchvision`, `timm` or `transformers`, or a module of theirs.
        what: Needs it, for the message.

    Raises:
        InputError: If it cannot be imported.
    """
    try:
        import_module(library.partition(".")[0])  # first, because it says by itself that it is missing
        return import_module(library)
    except Exception as error:  # a torchvision that was built for another torch raises RuntimeError
        missing = isinstance(error, ModuleNotFoundError) and error.name in _EXTRAS
        culprit = "torchvision" if "torchvision" in str(error) else library  # timm imports torchvision
        state = f"{culprit}, which is not installed" if missing else f"{library}, which cannot be imported"
        told = "" if missing else f": {type(error).__name__}: {one_line(error)}"
        raise InputError(f"{what} needs {state}{told}", _remedy(culprit, again=not missing)) from error


def _remedy(library: str, *, again: bool) -> str:
    """Return the command that installs a library; torchvision comes from where torch came from, or it does not load."""
    if library != "torchvision":
        return f'pip install "sharpkit[{_EXTRAS[library]}]"'
    build = torch.__version__.partition("+")[2]
    words = ["pip install", "--force-reinstall --no-deps" if again else "", "torchvision"]
    words += [f"--index-url https://download.pytorch.org/whl/{build}"] if build else []
    return " ".join(word for word in words if word)

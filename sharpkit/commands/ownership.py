"""Whether a file that is in the way of a result is one of ours, which may be replaced, or somebody's."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path

from sharpkit.errors import InputError

MARK = "sharpkit"
"""What figures are signed with."""

_FIRST_COLUMNS = ("ckpt", "group,metric", "opt", "optimizer")
_HEAD = 4096
_FIGURE = 64 << 20
_ARRAYS = ("ckpt.npy",)


def check_replaceable(paths: Iterable[Path]) -> None:
    """Refuse to write over a file that no command of ours wrote.

    Raises:
        InputError: If there is one.
    """
    for path in paths:
        if path.is_file() and not _ours(path):
            raise InputError(
                f"{path} is there and is no result of sharpkit", "give another name, or remove it yourself"
            )


def _ours(path: Path) -> bool:
    try:
        if path.stat().st_size == 0:
            return True
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as parts:
                return any(name in parts.namelist() for name in _ARRAYS)
        with path.open("rb") as file:
            content = file.read(_HEAD if path.suffix in (".csv", ".json") else _FIGURE)
    except (OSError, ValueError, zipfile.BadZipFile):
        return False
    if path.suffix == ".csv":
        return content.startswith(tuple(f"{column},".encode() for column in _FIRST_COLUMNS))
    return b'"schema": "sharpkit.' in content if path.suffix == ".json" else MARK.encode() in content

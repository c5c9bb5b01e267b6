"""Data in pickles, read without running code."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any, cast

import numpy as np

from sharpkit.data.images import unreadable
from sharpkit.errors import one_line

_ARRAY = np.empty(0)
_RECONSTRUCT, _FROM_BUFFER = _ARRAY.__reduce_ex__(2)[0], _ARRAY.__reduce_ex__(5)[0]


class _Bunch(dict[str, Any]):
    """A dict, whatever attributes the stored one had."""

    def __setstate__(self, state: object) -> None:
        """Leave them out."""


def _encoded(text: str, encoding: str) -> bytes:
    """Return bytes that Python 3 wrote for a protocol that has none."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it holds bytes as {encoding}, and not as latin1")
    return text.encode(encoding)


class _Array(np.ndarray[Any, Any]):
    """An array that only NumPy's own reading of a pickle makes: its constructor would take bytes for addresses."""

    def __new__(cls, *arguments: object, **options: object) -> _Array:
        """Refuse."""
        raise pickle.UnpicklingError("it builds an array in place, which data have no use for")


def _scalar(kind: np.dtype[Any], raw: bytes) -> Any:
    """Return one number of an array."""
    if kind.hasobject:
        raise pickle.UnpicklingError("it holds an object of NumPy")
    return np.frombuffer(raw, kind, 1)[0]


_ALLOWED = {
    ("_codecs", "encode"): _encoded,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy.core.numeric", "_frombuffer"): _FROM_BUFFER,
    ("numpy._core.numeric", "_frombuffer"): _FROM_BUFFER,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): np.dtype,
    ("sklearn.utils", "Bunch"): _Bunch,
    ("sklearn.utils._bunch", "Bunch"): _Bunch,
    ("sklearn.datasets.base", "Bunch"): _Bunch,
}


class _Data(pickle.Unpickler):
    """Reads lists, dicts, strings, numbers and arrays, and refuses everything else, so that no file can run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which data have no use for")
        return _ALLOWED[module, name]


def unpickled(content: bytes, path: Path) -> dict[str, Any]:
    """Return the dict in a pickle; strings of bytes that Python 2 wrote are read as Latin-1.

    Args:
        content: The pickle.
        path: Where it comes from, for messages.

    Raises:
        InputError: If it is damaged, names anything but data, or holds no dict.
    """
    try:
        found = _Data(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # a damaged pickle raises almost anything
        raise unreadable(path, f"{type(error).__name__}: {one_line(error)}") from error
    if not isinstance(found, dict):
        raise unreadable(path, f"it holds {type(found).__name__} and no dict")
    return cast("dict[str, Any]", found)

"""Handwritten digits that scikit-learn ships."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sharpkit.data.dataset import Dataset, assembled, cut_test
from sharpkit.data.samples import samples
from sharpkit.errors import InputError, one_line

_MEAN, _STD = 0.3053, 0.3761  # of all pixels in [0, 1]


def digits() -> Dataset:
    """Return 1,797 real digits of 8x8 pixels in 10 classes, a third of them for testing.

    E. Alpaydin and C. Kaynak (1998), "Optical Recognition of Handwritten Digits", UCI; scikit-learn's copy.

    Raises:
        InputError: If scikit-learn's copy is not where its releases have it.
    """
    table = _table()
    images = torch.as_tensor(table[:, :-1], dtype=torch.float32).view(-1, 1, 8, 8) / 16
    train, test = cut_test(samples((images - _MEAN) / _STD, table[:, -1].astype(np.int64), "digits"))
    return assembled("digits", train, test, pad=1, cutout=3)


def _table() -> NDArray[np.float64]:
    """Return (1797, 65) numbers: 64 pixels from 0 to 16 and the class; scikit-learn itself takes seconds to import."""
    spec = find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise _missing("scikit-learn is not installed")
    path = Path(spec.submodule_search_locations[0]) / "datasets/data/digits.csv.gz"
    try:
        with gzip.open(path) as file:
            return np.loadtxt(file, delimiter=",")
    except (OSError, EOFError, ValueError) as error:
        raise _missing(f"{path} cannot be read: {one_line(error)}") from error


def _missing(why: str) -> InputError:
    return InputError(f"the data set digits is missing: {why}", "pip install --force-reinstall scikit-learn")

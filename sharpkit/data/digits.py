"""Handwritten digits that scikit-learn ships."""

from __future__ import annotations

from typing import Any, cast

import torch
from sklearn.datasets import load_digits  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

from sharpkit.data.dataset import Dataset, assembled, cut_test
from sharpkit.data.samples import samples

_MEAN, _STD = 0.3053, 0.3761  # of all pixels in [0, 1]


def digits() -> Dataset:
    """Return 1,797 real digits of 8x8 pixels in 10 classes, a third of them for testing.

    E. Alpaydin and C. Kaynak (1998), "Optical Recognition of Handwritten Digits", UCI; scikit-learn's copy.
    """
    raw = cast("Any", load_digits())
    images = torch.as_tensor(raw.images, dtype=torch.float32)[:, None] / 16
    train, test = cut_test(samples((images - _MEAN) / _STD, raw.target, "digits"))
    return assembled("digits", train, test, pad=1, cutout=3)

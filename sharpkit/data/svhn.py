"""SVHN from the MATLAB files that its authors publish."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from sharpkit.data.augment import Normalise
from sharpkit.data.dataset import Dataset
from sharpkit.data.download import Download
from sharpkit.data.images import image_samples, unreadable
from sharpkit.data.samples import Samples
from sharpkit.data.source import Access, Size, Stored
from sharpkit.errors import one_line

# Of all pixels of the 73,257 training images, rounded.
_NORMALISE = Normalise((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970))


def svhn(folder: Path, access: Access) -> Dataset:
    """Return SVHN: 99,289 colour photos of house numbers, 32x32 pixels in 10 classes, 26,032 for testing.

    Y. Netzer et al. (2011), "Reading Digits in Natural Images with Unsupervised Feature Learning"; cropped digits,
    without the extra set. Shifts of up to 4 pixels, no mirror images, which would be other signs. Cutout of 20 pixels
    as in the code of T. DeVries and G. Taylor (2017), "Improved Regularization of Convolutional Neural Networks with
    Cutout", which does not shift these images.

    Args:
        folder: Holds train_32x32.mat and test_32x32.mat.
        access: Not used.

    Raises:
        InputError: If a file does not hold what it should.
    """
    train, test = (_read(folder / f"{part}_32x32.mat") for part in ("train", "test"))
    return Dataset("svhn", train, test, 10, pad=4, cutout=20, augment="basic")


def _read(path: Path) -> Samples:
    reader: Any = import_module("scipy.io")  # here, because it takes a while
    try:
        content = reader.loadmat(str(path), variable_names=["X", "y"])
        images, labels = content["X"], content["y"].ravel()
    except Exception as error:  # a damaged file raises almost anything
        raise unreadable(path, f"{type(error).__name__}: {one_line(error)}") from error
    if images.ndim != 4 or labels.dtype.kind not in "iu":
        raise unreadable(path, f"X has shape {images.shape} and y type {labels.dtype}")
    # MATLAB counts from 1, and the digit 0 is class 10.
    return image_samples(images.transpose(3, 2, 0, 1), np.where(labels == 10, 0, labels), str(path), 10, _NORMALISE)


SVHN = Stored(
    "svhn",
    svhn,
    Size(73_257, 26_032, (3, 32, 32), 10),
    files=(("train_32x32.mat",), ("test_32x32.mat",)),
    remedy="train_32x32.mat and test_32x32.mat (the cropped digits)",
    downloads=(
        Download("http://ufldl.stanford.edu/housenumbers/train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373"),
        Download("http://ufldl.stanford.edu/housenumbers/test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3"),
    ),
)

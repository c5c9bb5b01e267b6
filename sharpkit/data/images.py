"""Data sets of small images that are kept in memory as bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharpkit.data.augment import Normalise
from sharpkit.data.samples import Samples, samples
from sharpkit.errors import InputError


def image_samples(images: Any, labels: Any, what: str, classes: int, normalise: Normalise) -> Samples:
    """Return images as samples.

    Args:
        images: (N, C, H, W) bytes.
        labels: (N,) class numbers.
        what: The file that they come from, for messages.
        classes: How many classes there may be.
        normalise: Of pixels, batch by batch.

    Raises:
        InputError: If they are anything else.
    """
    pixels, numbers = np.asarray(images), np.asarray(labels)
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1] != len(normalise.mean):
        raise InputError(
            f"{what} holds images of type {pixels.dtype} and shape {pixels.shape}, allowed are uint8 and "
            f"(N, {len(normalise.mean)}, H, W)",
            "get the file anew",
        )
    made = samples(pixels, numbers.astype(np.int64), what, normalise)
    if int(made.targets.max()) >= classes:
        raise InputError(
            f"{what} has the class number {int(made.targets.max())}, allowed are 0 to {classes - 1}",
            "get the file anew",
        )
    return made


def unreadable(what: object, why: str) -> InputError:
    """Return the error of a file that does not hold what it should."""
    return InputError(f"cannot read {what}: {why}", "get the file anew")


Pixels = NDArray[np.uint8]

"""CIFAR-10 and CIFAR-100 from the pickles that their authors publish."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np

from sharpkit.data.augment import Normalise
from sharpkit.data.dataset import Dataset
from sharpkit.data.download import Download
from sharpkit.data.images import Pixels, image_samples, unreadable
from sharpkit.data.pickles import unpickled
from sharpkit.data.samples import Samples
from sharpkit.data.source import Access, Size, Stored

# Of all pixels of the 50,000 training images, rounded.
_NORMALISE_10 = Normalise((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
_NORMALISE_100 = Normalise((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))

# Patrini et al. (2017), section 5: truck to automobile, bird to airplane, deer to horse, cat to dog and back.
_MISTAKEN_10 = (0, 1, 0, 5, 7, 3, 6, 7, 8, 1)


def cifar10(folder: Path, access: Access) -> Dataset:
    """Return CIFAR-10: 60,000 colour photos of 32x32 pixels in 10 classes, 10,000 for testing.

    A. Krizhevsky (2009), "Learning Multiple Layers of Features from Tiny Images". Shifts of up to 4 pixels and mirror
    images as in K. He et al. (2015), "Deep Residual Learning for Image Recognition", section 4.2. Cutout of 16 pixels
    as in the code of T. DeVries and G. Taylor (2017), "Improved Regularization of Convolutional Neural Networks with
    Cutout".

    Args:
        folder: Holds cifar-10-batches-py/.
        access: Not used.

    Raises:
        InputError: If a file does not hold what it should.
    """
    inside = folder / "cifar-10-batches-py"
    batches = [_content(inside / f"data_batch_{i}", "labels") for i in range(1, 6)]
    train = _samples(batches, "labels", 10, _NORMALISE_10, inside)
    test = _samples([_content(inside / "test_batch", "labels")], "labels", 10, _NORMALISE_10, inside)
    return Dataset("cifar10", train, test, 10, pad=4, flip=True, cutout=16, augment="basic", mistaken=_MISTAKEN_10)


def cifar100(folder: Path, access: Access) -> Dataset:
    """Return CIFAR-100: 60,000 colour photos of 32x32 pixels in 100 classes, 10,000 for testing.

    Source and augmentation as for CIFAR-10, with cutout of 8 pixels. Asymmetric noise makes of a class the next one of
    its superclass, the first one after the last (Patrini et al. 2017).

    Args:
        folder: Holds cifar-100-python/.
        access: Not used.

    Raises:
        InputError: If a file does not hold what it should.
    """
    inside = folder / "cifar-100-python"
    first, second = _content(inside / "train", "fine_labels", "coarse_labels"), _content(inside / "test", "fine_labels")
    train, test = (_samples([part], "fine_labels", 100, _NORMALISE_100, inside) for part in (first, second))
    mistaken = _next_in_superclass(first["fine_labels"], first["coarse_labels"])
    return Dataset("cifar100", train, test, 100, pad=4, flip=True, cutout=8, augment="basic", mistaken=mistaken)


def _content(path: Path, *labels: str) -> dict[str, Any]:
    """Return the dict in a file, with rows of pixels and of each kind of labels one for every image."""
    content = unpickled(path.read_bytes(), path)
    data = content.get("data")
    if not isinstance(data, np.ndarray) or cast("Pixels", data).shape[1:] != (3072,):
        raise unreadable(path, "its data are not rows of 3072 bytes")
    count = len(cast("Pixels", data))
    for key in labels:
        found = content.get(key)
        if not isinstance(found, list) or len(cast("list[Any]", found)) != count:
            raise unreadable(path, f"it has not one of {key} for each of its {count} images")
        if any(type(label) is not int for label in cast("list[Any]", found)):
            raise unreadable(path, f"its {key} are not whole numbers")
    return content


def _samples(parts: list[dict[str, Any]], key: str, classes: int, normalise: Normalise, place: Path) -> Samples:
    """Return the samples of some files together."""
    pixels = np.concatenate([part["data"] for part in parts]).reshape(-1, 3, 32, 32)
    return image_samples(pixels, [label for part in parts for label in part[key]], str(place), classes, normalise)


def _next_in_superclass(fine: list[int], coarse: list[int]) -> tuple[int, ...]:
    """Return for every class the next one of its superclass, in a ring."""
    members: dict[int, set[int]] = {}
    for label, superclass in zip(fine, coarse, strict=True):
        members.setdefault(superclass, set()).add(label)
    following = list(range(100))
    for classes in members.values():
        ring = sorted(classes)
        for this, after in zip(ring, ring[1:] + ring[:1], strict=True):
            following[this] = after
    return tuple(following)


CIFAR10 = Stored(
    "cifar10",
    cifar10,
    Size(50_000, 10_000, (3, 32, 32), 10),
    files=tuple((f"cifar-10-batches-py/{n}",) for n in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")),
    remedy="the unpacked cifar-10-python.tar.gz (folder cifar-10-batches-py)",
    downloads=(
        Download("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),
    ),
)

CIFAR100 = Stored(
    "cifar100",
    cifar100,
    Size(50_000, 10_000, (3, 32, 32), 100),
    files=(("cifar-100-python/train",), ("cifar-100-python/test",)),
    remedy="the unpacked cifar-100-python.tar.gz (folder cifar-100-python)",
    downloads=(
        Download("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),
    ),
)

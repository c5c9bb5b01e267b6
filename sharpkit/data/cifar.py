"""CIFAR-10 and CIFAR-100 from the pickles that their authors publish."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharpkit.data.augment import Normalise
from sharpkit.data.dataset import Dataset
from sharpkit.data.download import Download
from sharpkit.data.images import Pixels, image_samples
from sharpkit.data.pickles import unpickled
from sharpkit.data.samples import Samples
from sharpkit.data.source import Access, Size, Stored
from sharpkit.errors import InputError

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
    """Return `data`, (N, 3, 32, 32) bytes, and of each kind of labels N whole numbers.

    What others pickled anew is read too: keys in bytes, arrays for lists and lists for arrays, wider whole numbers,
    and images with the channels last.
    """
    stored = unpickled(path.read_bytes(), path)
    content = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in stored.items()}
    pixels = _pixels(content.get("data"), path)
    return {"data": pixels, **{key: _labels(content.get(key), key, len(pixels), path) for key in labels}}


def _pixels(data: Any, path: Path) -> Pixels:
    rows = _array(data)
    shape = rows.shape
    if shape[1:] == (32, 32, 3):
        rows = rows.transpose(0, 3, 1, 2)
    elif shape[1:] not in ((3072,), (3, 32, 32)):
        told = f"of shape {'x'.join(map(str, shape))}" if shape else f"a {type(data).__name__}"
        raise _other(path, f"its data are {told}, and not rows of 3072 bytes or images of 3x32x32 or 32x32x3")
    if rows.dtype.kind not in "iu":
        raise _other(path, f"its data are {rows.dtype} numbers, and not whole ones from 0 to 255")
    if rows.size and (rows.min() < 0 or rows.max() > 255):
        raise _other(path, f"its data go from {rows.min()} to {rows.max()}, and not from 0 to 255")
    return np.ascontiguousarray(rows.reshape(-1, 3, 32, 32), dtype=np.uint8)


def _labels(found: Any, key: str, count: int, path: Path) -> list[int]:
    numbers = _array(found)
    if numbers.size != count or len(numbers) != count:
        raise _other(path, f"it has not one of {key} for each of its {count} images")
    if numbers.dtype.kind not in "iu":
        raise _other(path, f"its {key} are {numbers.dtype} and not whole numbers")
    return numbers.ravel().tolist()


def _array(found: Any) -> NDArray[Any]:
    """Return an array or a sequence as an array, of no dimension if it is neither."""
    try:
        return np.asarray(found if isinstance(found, np.ndarray | list | tuple) else None)
    except (ValueError, OverflowError):  # rows of several lengths, numbers of more than 64 bits
        return np.asarray(None)


def _other(path: Path, why: str) -> InputError:
    return InputError(
        f"cannot read {path}: {why}",
        "store data and labels as in the published file, which has rows of 3072 bytes and lists of whole numbers",
    )


def _samples(parts: list[dict[str, Any]], key: str, classes: int, normalise: Normalise, place: Path) -> Samples:
    """Return the samples of some files together."""
    pixels = np.concatenate([part["data"] for part in parts])
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

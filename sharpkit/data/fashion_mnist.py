"""Fashion-MNIST from the IDX files that its authors publish."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from sharpkit.data.augment import Normalise
from sharpkit.data.dataset import Dataset
from sharpkit.data.download import Download
from sharpkit.data.images import Pixels, image_samples, unreadable
from sharpkit.data.samples import Samples
from sharpkit.data.source import Access, Size, Stored

_NORMALISE = Normalise((0.2860,), (0.3530,))  # of all pixels of the 60,000 training images, rounded
_RAW = "FashionMNIST/raw"
_BYTES = 0x08  # the code of unsigned bytes in an IDX header


def fashion_mnist(folder: Path, access: Access) -> Dataset:
    """Return Fashion-MNIST: 70,000 grey images of clothes, 28x28 pixels in 10 classes, 10,000 for testing.

    H. Xiao, K. Rasul, R. Vollgraf (2017), "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
    Algorithms". Shifts of up to 4 pixels and mirror images as in the code of Z. Zhong et al. (2017), "Random Erasing
    Data Augmentation". The side of cutout, 8 pixels, is of no paper.

    Args:
        folder: Holds FashionMNIST/raw/, as torchvision lays it out; the files there may be packed with gzip.
        access: Not used.

    Raises:
        InputError: If a file does not hold what it should.
    """
    train, test = (_read(folder / _RAW, part) for part in ("train", "t10k"))
    return Dataset("fashion-mnist", train, test, 10, pad=4, flip=True, cutout=8, augment="basic")


def _read(folder: Path, part: str) -> Samples:
    images, labels = read_idx(folder / _images(part), 3), read_idx(folder / _labels(part), 1)
    return image_samples(images[:, None], labels, f"{folder}/{part}-*", 10, _NORMALISE)


def read_idx(path: Path, axes: int) -> Pixels:
    """Return the array of bytes in an IDX file, packed (PATH.gz) or not.

    Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits", on the format: two zero bytes, the code
    of the type, the number of axes, the size of each as a big-endian 32-bit number, and the data.

    Args:
        path: Without `.gz`.
        axes: How many there must be.

    Raises:
        InputError: If the file holds anything else.
    """
    packed = path.with_name(f"{path.name}.gz")
    try:
        raw = path.read_bytes() if path.exists() else gzip.decompress(packed.read_bytes())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise unreadable(packed, str(error)) from error
    start = 4 + 4 * axes
    if raw[:4] != bytes((0, 0, _BYTES, axes)) or len(raw) < start:
        raise unreadable(path, f"it is no IDX file of bytes with {axes} axes")
    shape = tuple(int.from_bytes(raw[i : i + 4], "big") for i in range(4, start, 4))
    if len(raw) != start + math.prod(shape):
        raise unreadable(path, f"it holds {len(raw) - start} bytes and says {math.prod(shape)}")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape).copy()  # the bytes themselves are read-only


def _images(part: str) -> str:
    return f"{part}-images-idx3-ubyte"


def _labels(part: str) -> str:
    return f"{part}-labels-idx1-ubyte"


_CHECKSUMS = {
    _images("train"): "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    _labels("train"): "25c81989df183df01b3e8a0aad5dffbe",
    _images("t10k"): "bef4ecab320f06d8554ea6380940ec79",
    _labels("t10k"): "bb300cfdad3c16e7a12a480ee83cd310",
}

FASHION_MNIST = Stored(
    "fashion-mnist",
    fashion_mnist,
    Size(60_000, 10_000, (1, 28, 28), 10),
    files=tuple((f"{_RAW}/{name}", f"{_RAW}/{name}.gz") for name in _CHECKSUMS),
    remedy=f"the folder {_RAW} with the four IDX files (*-ubyte or *-ubyte.gz)",
    downloads=tuple(
        Download(f"http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/{name}.gz", md5, to=_RAW)
        for name, md5 in _CHECKSUMS.items()
    ),
)

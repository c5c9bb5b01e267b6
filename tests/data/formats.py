"""Small files in the formats that data sets are published in, byte by byte where the format is not Python's own."""

import gzip
import struct

import numpy as np
from PIL import Image
from scipy.io import savemat


def pictures(count, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


# ---------------------------------------------------------------------- pickles of Python 2


def pickle_of_python_2(tree):
    """Protocol 2 as cPickle of Python 2 writes it, in which text is bytes and arrays are numpy.core's."""
    return b"\x80\x02" + _pickled(tree) + b"."


def _text(raw):
    return b"U" + bytes([len(raw)]) + raw if len(raw) < 256 else b"T" + struct.pack("<i", len(raw)) + raw


def _pickled(tree):
    if isinstance(tree, str):
        return _text(tree.encode("latin1"))
    if isinstance(tree, int):
        return b"J" + struct.pack("<i", tree)
    if isinstance(tree, list):
        return b"](" + b"".join(_pickled(item) for item in tree) + b"e"
    if isinstance(tree, dict):
        return b"}(" + b"".join(_pickled(part) for item in tree.items() for part in item) + b"u"
    made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    kind = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb"
    shape = b"(" + b"".join(_pickled(n) for n in tree.shape) + b"t"
    return made + b"(K\x01" + shape + kind + b"\x89" + _text(tree.tobytes()) + b"tb"


def write_cifar10(root, each=8):
    """Five batches and a test batch of `each` images; returns images and labels for training and testing."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    images, labels = pictures(6 * each, 3, 32, 32), (np.arange(6 * each) * 7 % 10).tolist()
    for i, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        rows = slice(i * each, (i + 1) * each)
        content = {
            "batch_label": f"batch {i}",
            "labels": labels[rows],
            "data": images[rows].reshape(each, 3072),
            "filenames": [f"{k}.png" for k in range(each)],
        }
        (folder / name).write_bytes(pickle_of_python_2(content))
    cut = 5 * each
    return (images[:cut], labels[:cut]), (images[cut:], labels[cut:])


def write_cifar100(root, count=200):
    """Two files; the superclass of a fine label is its last two digits modulo 20."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    parts = []
    for name, size, seed in (("train", count, 1), ("test", 20, 2)):
        images, fine = pictures(size, 3, 32, 32, seed=seed), (np.arange(size) % 100).tolist()
        content = {
            "filenames": ["x.png"] * size,
            "batch_label": f"{name} batch 1 of 1",
            "fine_labels": fine,
            "coarse_labels": [label % 20 for label in fine],
            "data": images.reshape(size, 3072),
        }
        (folder / name).write_bytes(pickle_of_python_2(content))
        parts.append((images, fine))
    return parts


# ---------------------------------------------------------------------- IDX and MATLAB


def idx(array):
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}i", *array.shape) + array.tobytes()


def write_fashion_mnist(root, *, packed):
    folder = root / "FashionMNIST/raw"
    folder.mkdir(parents=True)
    parts = []
    for name, size, seed in (("train", 40, 3), ("t10k", 10, 4)):
        images, labels = pictures(size, 28, 28, seed=seed), (np.arange(size) % 10).astype(np.uint8)
        for kind, array in ((f"{name}-images-idx3-ubyte", images), (f"{name}-labels-idx1-ubyte", labels)):
            if packed:
                (folder / f"{kind}.gz").write_bytes(gzip.compress(idx(array)))
            else:
                (folder / kind).write_bytes(idx(array))
        parts.append((images[:, None], labels.tolist()))
    return parts


def write_svhn(root):
    """MATLAB 5 files, packed, with X (32, 32, 3, N) and y (N, 1) from 1 to 10."""
    root.mkdir(parents=True, exist_ok=True)
    parts = []
    for name, size, seed in (("train", 40, 5), ("test", 20, 6)):
        images, digits = pictures(size, 3, 32, 32, seed=seed), np.arange(size) % 10
        y = np.where(digits == 0, 10, digits).astype(np.uint8)[:, None]
        savemat(root / f"{name}_32x32.mat", {"X": images.transpose(2, 3, 1, 0), "y": y}, do_compression=True)
        parts.append((images, digits.tolist()))
    return parts


# ---------------------------------------------------------------------- folders of images


def write_images(root, classes=("ant", "bee", "cat"), each=6, size=(40, 30), first=0):
    """A folder of PNG and JPEG files for every class; an image has one colour, which says its class and number."""
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(each):
            ending = "png" if i % 2 else "JPEG"
            colour = (80 * label + 20, 8 * (first + i) + 10, 128)
            Image.new("RGB", size, colour).save(root / name / f"{name}_{first + i:03}.{ending}")

"""Folders of images, one for every class: a user's own, and ImageNet."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from sharpkit.data.augment import Normalise
from sharpkit.data.dataset import Dataset, cut_test
from sharpkit.data.files import ImageFiles, transform
from sharpkit.data.source import Access, Size, Stored
from sharpkit.errors import InputError

# Of ImageNet's training images, as torchvision and most others have it.
_NORMALISE = Normalise((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

_ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # those of torchvision


def imagenet(folder: Path, access: Access) -> Dataset:
    """Return ImageNet (ILSVRC2012): 1,331,167 photos in 1,000 classes, 50,000 of them for testing.

    O. Russakovsky et al. (2015), "ImageNet Large Scale Visual Recognition Challenge". As in the literature the images
    for validation are the test set: the labels of the real one were never published.

    Args:
        folder: Holds train/ and val/, each with a folder of images for every class.
        access: How many processes read images.

    Raises:
        InputError: If the folders are not as they should be, or torchvision does not work.
    """
    return _of_two("imagenet", folder / "train", folder / "val", access)


def image_folder(folder: Path, access: Access) -> Dataset:
    """Return a user's folder of images.

    Args:
        folder: Holds train/ and test/ or val/, each with a folder of images for every class; or these class folders
            themselves, of which a third of every class becomes the test set.
        access: How many processes read images.

    Raises:
        InputError: If the folders are not as they should be, or torchvision does not work.
    """
    if not folder.is_dir():
        raise InputError(f"the folder {folder} does not exist", "give a folder of images, or see sharpkit ls data")
    name = folder.resolve().name
    if (folder / "train").is_dir():
        test = next((folder / part for part in ("test", "val") if _classes(folder / part)), None)
        if test is None:
            raise InputError(
                f"{folder} has train/ and neither test/ nor val/ with class folders",
                "add one of them, or give the folder train/ itself",
            )
        return _of_two(name, folder / "train", test, access)
    classes = _classes(folder)
    train, test = cut_test(_files(folder, classes, access))
    return _dataset(name, train, test, classes)


def _of_two(name: str, train: Path, test: Path, access: Access) -> Dataset:
    """Return a data set from a folder for training and one for testing."""
    classes, others = _classes(train), _classes(test)
    foreign = sorted(set(others) - set(classes))
    if foreign:
        raise InputError(
            f"{test} has a class {foreign[0]!r} that {train} does not have", "use the same folder names in both"
        )
    if not others:
        raise InputError(f"{test} has no class folders", f"sort its images into folders named as those in {train}")
    return _dataset(name, _files(train, classes, access), _files(test, classes, access, numbered=others), classes)


def _dataset(name: str, train: ImageFiles, test: ImageFiles, classes: list[str]) -> Dataset:
    transform(training=False)  # so that a torchvision that does not work is told before anything else is done
    return Dataset(name, train, test, len(classes), flip=True, augment="basic")


def _classes(folder: Path) -> list[str]:
    """Return the names of the class folders, in the order of their numbers."""
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def _files(root: Path, classes: list[str], access: Access, numbered: list[str] | None = None) -> ImageFiles:
    """Return the images of some classes, class by class, in the order of torchvision's ImageFolder.

    Args:
        root: Holds the class folders.
        classes: All classes, whose positions are the class numbers.
        access: How many processes read images.
        numbered: Those that are here; all of them if not given.
    """
    if len(classes) < 2:
        raise InputError(
            f"{root} has {len(classes)} class folders, allowed are two or more",
            "give a folder that holds a folder of images for every class",
        )
    names: list[bytes] = []
    targets: list[int] = []
    for label, name in enumerate(classes):
        if numbered is not None and name not in numbered:
            continue
        found = _images(root, name)
        if not found:
            raise InputError(
                f"{root / name} holds no images ({' '.join(_ENDINGS)})", "add images, or remove the folder"
            )
        names += found
        targets += [label] * len(found)
    return ImageFiles(
        str(root), np.array(names), torch.tensor(targets), torch.arange(len(names)), _NORMALISE, access.workers
    )


def _images(root: Path, name: str) -> list[bytes]:
    """Return the paths of a class's images below the root, those in folders of the class included."""
    found: list[bytes] = []
    for place, _, files in sorted(os.walk(root / name, followlinks=True)):
        inside = os.path.relpath(place, root)
        found += [os.fsencode(f"{inside}/{file}") for file in sorted(files) if file.lower().endswith(_ENDINGS)]
    return found


IMAGENET = Stored(
    "imagenet",
    imagenet,
    Size(1_281_167, 50_000, (3, 224, 224), 1000),
    files=(("train",), ("val",)),
    remedy="ILSVRC2012 from image-net.org (train and val, each with a folder of images for every class)",
)

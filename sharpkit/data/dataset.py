"""What a data set is, and how one is made of what a user's function returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from sharpkit.data.augment import Augmentation
from sharpkit.data.part import Part
from sharpkit.data.samples import Samples, samples
from sharpkit.errors import InputError

_TEST_SEED = 20210503  # the test split is the same in every run, whatever the run's seed
_TEST_FRACTION = 1 / 3

_P = TypeVar("_P", bound=Part)


@dataclass(frozen=True)
class Dataset:
    """Training and test samples, and which augmentations make sense for them.

    Args:
        name: For the run directory.
        train: Training samples, before a validation part is held out.
        test: Test samples.
        classes: The number of classes; 1 where the targets are numbers to be predicted.
        pad: Pixels of padding of a random crop; 0 where cropping makes no sense.
        flip: Whether a mirrored image is of the same class.
        cutout: Side of the square that cutout blanks, in pixels.
        augment: What `--augment auto` means.
        mistaken: For every class the one that asymmetric label noise makes of it, itself for none; empty for the next.
        metrics: What a model is judged by, names of `sharpkit.engine.metrics.METRICS`.
        further: More test samples, by name, which a model is judged by too.
    """

    name: str
    train: Part
    test: Part
    classes: int
    pad: int = 0
    flip: bool = False
    cutout: int = 0
    augment: Augmentation = "none"
    mistaken: tuple[int, ...] = ()
    metrics: tuple[str, ...] = ("acc",)
    further: Mapping[str, Part] = field(default_factory=dict[str, Part])

    @cached_property
    def checksum(self) -> int:
        """A number that changes with any sample, target or their order; of files, with their names and sizes."""
        start = 0
        for part in (self.train, self.test, *self.further.values()):
            start = part.checksum(start)
        return start

    @property
    def regression(self) -> bool:
        """Whether the targets are numbers to be predicted and not classes."""
        return self.classes == 1

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return self.train.shape


def from_user(name: str, returned: Any) -> Dataset:
    """Return the data set that a user's function gave.

    Args:
        name: For the run directory.
        returned: A `Dataset`, `(inputs, targets)`, of which a third becomes the test set, or
            `((train inputs, targets), (test inputs, targets))`.

    Raises:
        InputError: If it is none of these.
    """
    if isinstance(returned, Dataset):
        return returned
    kind = type(returned).__name__
    parts: list[Any] = list(returned) if kind in ("tuple", "list") else []
    if len(parts) == 2 and all(type(part) in (tuple, list) and len(part) == 2 for part in parts):
        (train_x, train_y), (test_x, test_y) = parts
        return assembled(name, samples(train_x, train_y, f"{name} (train)"), samples(test_x, test_y, f"{name} (test)"))
    if len(parts) == 2:
        train, test = cut_test(samples(parts[0], parts[1], name))
        if not len(test):
            raise InputError(
                f"{name}: {len(train)} samples are too few to cut a test set from",
                "return ((inputs, targets), (test inputs, test targets))",
            )
        return assembled(name, train, test)
    raise InputError(
        f"the data function {name} returned {kind}, allowed are (inputs, targets), "
        "((inputs, targets), (test inputs, test targets)) and a Dataset",
        "return two tensors",
    )


def assembled(name: str, train: Samples, test: Samples, **options: Any) -> Dataset:
    """Return a data set with as many classes as the largest target says.

    Raises:
        InputError: If the parts do not fit together, or the targets do not look like class numbers.
    """
    if train.shape != test.shape:
        raise InputError(
            f"{name}: training inputs have shape {train.shape}, test inputs {test.shape}",
            "return inputs of one shape",
        )
    classes = int(max(train.targets.max(), test.targets.max())) + 1
    if not 2 <= classes <= len(train) + len(test):
        raise InputError(
            f"{name}: {len(train) + len(test)} samples have class numbers up to {classes - 1}, allowed are at least "
            "two classes and no more than samples",
            "number the classes 0, 1, ...",
        )
    return Dataset(name, train, test, classes, **options)


def cut_test(every: _P) -> tuple[_P, _P]:
    """Cut samples into two thirds for training and one for testing, class by class, the same in every run."""
    generator = torch.Generator().manual_seed(_TEST_SEED)
    chosen: list[Tensor] = []
    for label in range(int(every.targets.max()) + 1):
        rows = torch.nonzero(every.targets == label).flatten()
        order = torch.randperm(len(rows), generator=generator)
        chosen.append(rows[order[: round(len(rows) * _TEST_FRACTION)]])
    is_test = torch.zeros(len(every), dtype=torch.bool)
    is_test[torch.cat(chosen)] = True
    return every.take(torch.nonzero(~is_test).flatten()), every.take(torch.nonzero(is_test).flatten())

"""What a data set is, how it is cut into training, validation and test data, and label noise."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from sharpkit.errors import InputError, UsageError, one_line

_TEST_SEED = 20210503  # the test split is the same in every run, whatever the run's seed
_TEST_FRACTION = 1 / 3


@dataclass(frozen=True)
class Samples:
    """Inputs (N, ...), integer targets (N,) and stable sample numbers (N,)."""

    inputs: Tensor
    targets: Tensor
    indices: Tensor

    def __len__(self) -> int:
        return self.inputs.shape[0]

    def take(self, rows: Tensor) -> Samples:
        """Return the samples at the given positions."""
        return Samples(self.inputs[rows], self.targets[rows], self.indices[rows])

    def to(self, device: torch.device) -> Samples:
        """Return the samples on a device."""
        return Samples(self.inputs.to(device), self.targets.to(device), self.indices.to(device))


@dataclass(frozen=True)
class Dataset:
    """Training and test samples, and which augmentations make sense for them.

    Args:
        name: For the run directory.
        train: Training samples, before a validation part is held out.
        test: Test samples.
        classes: The number of classes.
        pad: Pixels of padding of a random crop; 0 where cropping makes no sense.
        flip: Whether a mirrored image is of the same class.
        cutout: Side of the square that cutout blanks, in pixels.
        augment: What `--augment auto` means.
    """

    name: str
    train: Samples
    test: Samples
    classes: int
    pad: int = 0
    flip: bool = False
    cutout: int = 0
    augment: str = "none"

    @cached_property
    def checksum(self) -> int:
        """A number that changes with any sample, target or their order."""
        total = 0
        for part in (self.train, self.test):
            for tensor in (part.inputs, part.targets):
                total = zlib.crc32(np.ascontiguousarray(tensor.cpu().numpy()).data.cast("B"), total)
        return total

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return tuple(self.train.inputs.shape[1:])


@dataclass(frozen=True)
class Splits:
    """What a run trains on, validates on and is tested on."""

    train: Samples
    val: Samples
    test: Samples
    noisy_labels: int


def samples(inputs: Any, targets: Any, what: str) -> Samples:
    """Return samples from tensors or arrays.

    Args:
        inputs: (N, ...) numbers.
        targets: (N,) class numbers.
        what: What to call them in messages.

    Raises:
        InputError: If they do not fit together.
    """
    x, y = _tensor(inputs, f"{what}: the inputs"), _tensor(targets, f"{what}: the targets")
    if x.dim() < 2 or y.dim() != 1 or x.shape[0] != y.shape[0] or x.shape[0] == 0:
        raise InputError(
            f"{what}: inputs have shape {tuple(x.shape)} and targets {tuple(y.shape)}, allowed are (N, ...) and (N,)",
            "return one target for every input",
        )
    if y.is_floating_point() or y.is_complex() or int(y.long().min()) < 0:
        raise InputError(f"{what}: targets must be class numbers 0, 1, ...", "return integer targets")
    x = x.float() if x.is_floating_point() else x.float() / 255 if x.dtype == torch.uint8 else x
    if x.is_complex() or not bool(torch.isfinite(x).all()):
        raise InputError(f"{what}: the inputs hold values that are not finite real numbers", "remove or replace them")
    return Samples(x, y.long(), torch.arange(len(y)))


def _tensor(value: Any, what: str) -> Tensor:
    """Return numbers of any kind as a dense tensor without a history."""
    if isinstance(value, np.ndarray):
        value = np.ascontiguousarray(cast("Any", value))  # a view with negative strides is an array, and no tensor
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{what} do not make a tensor: {one_line(error)}", "return tensors or arrays") from error
    if tensor.layout is not torch.strided:
        raise InputError(f"{what} are sparse, allowed are dense tensors", "return .to_dense()")
    return tensor.detach()


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
    if train.inputs.shape[1:] != test.inputs.shape[1:]:
        raise InputError(
            f"{name}: training inputs have shape {tuple(train.inputs.shape[1:])}, test inputs "
            f"{tuple(test.inputs.shape[1:])}",
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


def cut_test(every: Samples) -> tuple[Samples, Samples]:
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


def split(dataset: Dataset, *, val_frac: float, label_noise: float, limit: int | None, seed: int) -> Splits:
    """Hold out validation data and add label noise to the rest.

    Noise is symmetric: exactly round(label_noise * n) training labels, drawn without replacement, are each replaced by
    one of the other classes with equal probability. Validation and test labels stay as they are.

    Args:
        dataset: What is split.
        val_frac: Fraction of the training samples that is held out.
        label_noise: Fraction of the remaining labels that is replaced.
        limit: Use only so many training samples, before the validation part is held out.
        seed: Of both draws.

    Raises:
        UsageError: If nothing is left to train on.
    """
    order = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(seed))
    order = order if limit is None else order[:limit]
    held_out = round(len(order) * val_frac)
    if len(order) - held_out < 2:
        raise UsageError(
            f"{len(order)} samples with val-frac {val_frac:g} leave {len(order) - held_out} to train on",
            "raise --limit",
        )
    val, train = dataset.train.take(order[:held_out]), dataset.train.take(order[held_out:])
    noisy, count = with_noise(train.targets, label_noise, dataset.classes, seed)
    return Splits(Samples(train.inputs, noisy, train.indices), val, dataset.test, count)


def with_noise(targets: Tensor, fraction: float, classes: int, seed: int) -> tuple[Tensor, int]:
    """Return targets of which round(fraction * n) are another class, and that number."""
    count = round(fraction * len(targets))
    if count and classes < 2:
        raise UsageError("label noise needs at least two classes", "use --label-noise 0")
    generator = torch.Generator().manual_seed(seed + 1)
    rows = torch.randperm(len(targets), generator=generator)[:count]
    shift = torch.randint(1, max(classes, 2), (count,), generator=generator)
    noisy = targets.clone()
    noisy[rows] = (noisy[rows] + shift) % classes
    return noisy, count

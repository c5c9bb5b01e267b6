"""Samples whose inputs are image files, read by processes of their own while the model trains."""

from __future__ import annotations

import os
import signal
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from sharpkit.core.task import Batch
from sharpkit.data.augment import PLAIN, Augment, Normalise
from sharpkit.data.part import ALL, Plan, Share, in_order, in_order_that_fits
from sharpkit.errors import InputError, one_line
from sharpkit.libraries import imported

SIDE = 224
"""Of the square that the model sees, in pixels."""

_SHORTER_SIDE = 256  # that an image is shrunk to before the square is cut out of its middle
_GRACE = 10.0  # seconds
_PER_BATCH = 1_000_003
_READ_AT_ONCE = 64  # by one process, where all images are wanted together
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class ImageFiles:
    """Image files, their class numbers (N,) and stable sample numbers (N,).

    Without augmentation the shorter side is resized to 256 pixels and the middle square of 224 taken. With it a random
    part of 8 to 100 % of the area is resized to 224x224, and mirrored half of the time (C. Szegedy et al. 2015, "Going
    Deeper with Convolutions", section 6). Both are torchvision's transforms with their defaults. What is drawn for an
    image depends on the plan alone, and not on which process reads it.

    Args:
        root: What the names are relative to.
        names: (N,) paths in the file system's encoding. An array, which processes share; a list they would copy.
        targets: Class numbers.
        indices: Sample numbers.
        normalise: Of pixels, batch by batch.
        workers: Processes that read ahead; 0 reads in this one.
        device: Of the batches.
    """

    root: str
    names: NDArray[np.bytes_]
    targets: Tensor
    indices: Tensor
    normalise: Normalise
    workers: int = 0
    device: torch.device = _CPU

    def __len__(self) -> int:
        return len(self.names)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of an image as the model sees it."""
        return (3, SIDE, SIDE)

    def take(self, rows: Tensor) -> ImageFiles:
        """Return the samples at the given positions."""
        return replace(self, names=self.names[rows.numpy()], targets=self.targets[rows], indices=self.indices[rows])

    def relabelled(self, targets: Tensor) -> ImageFiles:
        """Return the same samples with other targets."""
        return replace(self, targets=targets)

    def to(self, device: torch.device) -> ImageFiles:
        """Return the samples so that their batches are on a device; files stay where they are."""
        return replace(self, device=device)

    def batches(self, plan: Plan, augment: Augment = PLAIN, share: Share = ALL) -> Iterator[Batch]:
        """Yield the batches of a plan, or a share of every one, augmented, as the model sees them.

        Raises:
            InputError: If a file cannot be read.
        """
        shares = [share.of(rows) for rows, _ in plan]
        ours = [(rows, seed) for (rows, _, _), (_, seed) in zip(shares, plan, strict=True)]
        read_ahead = self._read(ours, training=augment.kind != "none")
        for (rows, among, parts), (_, seed), read in zip(shares, plan, read_ahead, strict=True):
            images = self.normalise(read.to(self.device, non_blocking=True))
            images = augment.blank(images, torch.Generator().manual_seed(seed), among)
            yield Batch(images, self.targets[rows].to(self.device), self.indices[rows].to(self.device), parts=parts)

    def whole(self) -> Plan:
        """Return the plan of all samples for a pass without gradients."""
        return in_order_that_fits(self)

    def together(self) -> Batch:
        """Return all samples as one batch, read by several processes."""
        read = list(self.batches(in_order(len(self), _READ_AT_ONCE)))
        images, targets = torch.cat([b.inputs for b in read]), torch.cat([b.targets for b in read])
        return Batch(images, targets, self.indices.to(self.device))

    def checksum(self, start: int) -> int:
        """Continue a CRC-32 with the names, sizes and classes of the files, in their order; nothing is read."""
        sizes = [os.stat(os.path.join(os.fsencode(self.root), name)).st_size for name in self.names]  # noqa: PTH116, PTH118
        for array in (self.names, np.array(sizes, dtype=np.int64), self.targets.numpy()):
            start = zlib.crc32(array.tobytes(), start)
        return start

    def _read(self, plan: Plan, *, training: bool) -> Iterator[Tensor]:
        """Yield the images of every batch, (B, 3, 224, 224) bytes."""
        decoder: Any = _Decoder(self.root, self.names, transform(training=training))
        with warnings.catch_warnings():  # of torch's, which would have no more processes than CPUs
            warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
            loader: DataLoader[Any] = DataLoader(
                decoder,
                batch_sampler=_Keys(plan),
                num_workers=min(self.workers, len(plan)) if len(plan) > 1 else 0,
                collate_fn=_as_it_is,
                pin_memory=self.device.type == "cuda",
                worker_init_fn=_outlive_signals,
                generator=torch.Generator(),  # the loader draws a number, and must not draw it from the global stream
            )
            reading = iter(loader)
        try:
            for _ in plan:
                images = next(reading)
                if isinstance(images, str):
                    raise InputError(f"cannot read the image {images}", "remove or replace it")
                yield images
        except RuntimeError as error:  # a process was killed, most often for want of shared memory
            raise InputError(f"reading images failed: {one_line(error)}", "give fewer --workers, or 0") from error
        finally:
            del reading  # which ends the processes, also where an error keeps this frame


def transform(*, training: bool) -> Any:
    """Return what makes a square of bytes of an image, by torchvision.

    Raises:
        InputError: If torchvision is missing or does not work.
    """
    v2 = imported("torchvision.transforms.v2", "a data set of image files")
    if training:
        return v2.Compose([v2.RandomResizedCrop(SIDE), v2.RandomHorizontalFlip(), v2.PILToTensor()])
    return v2.Compose([v2.Resize(_SHORTER_SIDE), v2.CenterCrop(SIDE), v2.PILToTensor()])


class _Keys:
    """For every batch of a plan the position and the seed of each sample."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for rows, seed in self._plan:
            numbers = cast("list[int]", rows.tolist())
            yield [(row, (seed * _PER_BATCH + row) % 2**63) for row in numbers]

    def __len__(self) -> int:
        return len(self._plan)


@dataclass(frozen=True)
class _Decoder:
    """Reads batches of files, in this process or in another."""

    root: str
    names: NDArray[np.bytes_]
    transform: Any

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, key: tuple[int, int]) -> Tensor | str:
        return self.__getitems__([key])

    def __getitems__(self, keys: list[tuple[int, int]]) -> Tensor | str:
        """Return (B, 3, 224, 224) bytes, or what could not be read and why: an exception would lose its one line."""
        from PIL import Image

        images = torch.empty(len(keys), 3, SIDE, SIDE, dtype=torch.uint8)
        state = torch.get_rng_state()
        try:
            for i, (row, seed) in enumerate(keys):
                path = os.path.join(self.root, os.fsdecode(bytes(self.names[row])))  # noqa: PTH118
                torch.default_generator.manual_seed(seed)  # torchvision draws from the global stream
                try:
                    with Image.open(path) as image:
                        images[i] = self.transform(image.convert("RGB"))
                except Exception as error:  # a damaged file raises almost anything
                    return f"{path}: {type(error).__name__}: {one_line(error)}"
        finally:
            torch.set_rng_state(state)
        return images


def _as_it_is(batch: Any) -> Any:
    return batch


def _outlive_signals(worker: int) -> None:
    """Let the training process decide what a Ctrl-C or a batch system's signal means: they reach all processes.

    It may need one more batch. But SIGTERM is also how it ends a process that it has lost, so it is obeyed in the end.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.setitimer(signal.ITIMER_REAL, _GRACE))

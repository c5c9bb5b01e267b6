"""Batches from samples that live on the device as one tensor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sharpkit.core.task import Batch
from sharpkit.data.augment import random_crop, random_cutout, random_flip
from sharpkit.data.dataset import Dataset, Samples
from sharpkit.errors import UsageError

Augmentation = Literal["none", "basic", "cutout"]

_EPOCHS_APART = 1_000_003
_SEEDS = 2**63


@dataclass(frozen=True)
class Loader:
    """Shuffled, augmented batches; those of epoch e depend on the seed and e alone.

    So a run can be resumed at any batch without replaying the ones before it. The last batch of an epoch may be
    smaller; a single leftover sample is dropped, because batch norm cannot normalise it.

    Args:
        samples: On the device that the batches are wanted on.
        batch_size: Samples a batch.
        seed: Of order and augmentation.
        dataset: Says which augmentations make sense.
        augmentation: `none`, `basic` (crop and flip) or `cutout` (basic, then cutout).

    Raises:
        UsageError: If images are needed and the samples are none.
    """

    samples: Samples
    batch_size: int
    seed: int
    dataset: Dataset
    augmentation: Augmentation = "none"

    def __post_init__(self) -> None:
        if self.augmentation != "none" and self.samples.inputs.dim() != 4:
            raise UsageError(
                f"augmentation {self.augmentation} needs images (N, C, H, W), the data have shape "
                f"{tuple(self.samples.inputs.shape)}",
                "use --augment none",
            )

    def __len__(self) -> int:
        whole, rest = divmod(len(self.samples), self.batch_size)
        return max(1, whole + (rest > 1))

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from the batch `start` on."""
        seed = (self.seed * _EPOCHS_APART + number) % _SEEDS
        order = torch.randperm(len(self.samples), generator=torch.Generator().manual_seed(seed))
        order = order.to(self.samples.inputs.device)
        for i in range(start, len(self)):
            picked = self.samples.take(order[i * self.batch_size : (i + 1) * self.batch_size])
            generator = torch.Generator().manual_seed((seed * _EPOCHS_APART + i + 1) % _SEEDS)
            yield Batch(self._augmented(picked.inputs, generator), picked.targets, picked.indices)

    def _augmented(self, images: Tensor, generator: torch.Generator) -> Tensor:
        if self.augmentation == "none":
            return images
        if self.dataset.pad:
            images = random_crop(images, self.dataset.pad, generator)
        if self.dataset.flip:
            images = random_flip(images, generator)
        if self.augmentation == "cutout":
            images = random_cutout(images, self.dataset.cutout or images.shape[-1] // 4, generator)
        return images

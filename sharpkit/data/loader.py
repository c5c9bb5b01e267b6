"""The batches of an epoch: which samples, in which order, from which seed."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import torch

from sharpkit.core.task import Batch
from sharpkit.data.augment import Augment, Augmentation
from sharpkit.data.dataset import Dataset
from sharpkit.data.part import ALL, Part, Share
from sharpkit.errors import UsageError

_EPOCHS_APART = 1_000_003
_SEEDS = 2**63


@dataclass(frozen=True)
class Loader:
    """Shuffled, augmented batches; those of epoch e depend on the seed and e alone.

    So a run can be resumed at any batch without replaying the ones before it. The last batch of an epoch may be
    smaller; leftover samples are dropped where a process would have less than two, which batch norm cannot normalise.

    Args:
        samples: On the device that the batches are wanted on.
        batch_size: Samples a batch.
        seed: Of order and augmentation.
        dataset: Says which augmentations make sense.
        augmentation: `none`, `basic` (crop and flip) or `cutout` (basic, then cutout).
        share: Which samples of every batch are wanted.
        cutout: Side of the square that cutout blanks, in pixels; None for the data set's.
        prob: Probability with which cutout is applied to an image.

    Raises:
        UsageError: If images are needed and the samples are none, or if there are more processes than pairs of samples
            in a batch.
    """

    samples: Part
    batch_size: int
    seed: int
    dataset: Dataset
    augmentation: Augmentation = "none"
    share: Share = ALL
    cutout: int | None = None
    prob: float = 1.0

    def __post_init__(self) -> None:
        ranks, fewest = self.share.ranks, min(self.batch_size, len(self.samples))
        if ranks > 1 and fewest < 2 * ranks:
            raise UsageError(
                f"a batch has {fewest} samples, and there are {ranks} processes, which need 2 each",
                "give a larger --batch-size, or fewer processes",
            )
        if self.augmentation != "none" and len(self.samples.shape) != 3:
            raise UsageError(
                f"augmentation {self.augmentation} needs images (N, C, H, W), the data have shape "
                f"{(len(self.samples), *self.samples.shape)}",
                "use --augment none",
            )

    def __len__(self) -> int:
        whole, rest = divmod(len(self.samples), self.batch_size)
        return max(1, whole + (rest >= 2 * self.share.ranks))

    def epoch(self, number: int, start: int = 0, stop: int | None = None) -> Generator[Batch]:
        """Yield the batches of an epoch from the batch `start` on, up to the batch `stop` or the end."""
        seed = (self.seed * _EPOCHS_APART + number) % _SEEDS
        order = torch.randperm(len(self.samples), generator=torch.Generator().manual_seed(seed))
        plan = [
            (order[i * self.batch_size : (i + 1) * self.batch_size], (seed * _EPOCHS_APART + i + 1) % _SEEDS)
            for i in range(start, len(self) if stop is None else stop)
        ]
        size = self.dataset.cutout if self.cutout is None else self.cutout
        augment = Augment(self.augmentation, self.dataset.pad, self.dataset.flip, size, self.prob)
        yield from self.samples.batches(plan, augment, self.share)

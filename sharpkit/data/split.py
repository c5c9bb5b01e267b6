"""Which samples a run trains on, validates on and is tested on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from sharpkit.data.dataset import Dataset
from sharpkit.data.noise import NoiseKind, with_noise
from sharpkit.data.part import Part
from sharpkit.errors import UsageError


@dataclass(frozen=True)
class Splits:
    """What a run trains on, validates on and is tested on; `further` are more test samples, by name."""

    train: Part
    val: Part
    test: Part
    noisy_labels: int
    further: Mapping[str, Part] = field(default_factory=dict[str, Part])

    def to(self, device: torch.device) -> Splits:
        """Return the splits so that their batches are on a device."""
        further = {name: part.to(device) for name, part in self.further.items()}
        return Splits(self.train.to(device), self.val.to(device), self.test.to(device), self.noisy_labels, further)


def split(
    dataset: Dataset,
    *,
    val_frac: float,
    label_noise: float,
    limit: int | None,
    seed: int,
    noise_kind: NoiseKind = "symmetric",
) -> Splits:
    """Hold out validation data and add label noise to the rest.

    Validation and test labels stay as they are.

    Args:
        dataset: What is split.
        val_frac: Fraction of the training samples that is held out.
        label_noise: Fraction of the remaining labels that is replaced, see `with_noise`.
        limit: Use only so many training samples, before the validation part is held out.
        seed: Of both draws.
        noise_kind: `symmetric` or `asymmetric`.

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
    noisy, count = with_noise(train.targets, label_noise, dataset.classes, seed, noise_kind, dataset.mistaken)
    return Splits(train.relabelled(noisy), val, dataset.test, count, dataset.further)

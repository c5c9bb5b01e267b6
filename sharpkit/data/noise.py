"""Label noise: some training labels are replaced by another class."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sharpkit.errors import UsageError

NoiseKind = Literal["symmetric", "asymmetric"]


def with_noise(
    targets: Tensor,
    fraction: float,
    classes: int,
    seed: int,
    kind: NoiseKind = "symmetric",
    mistaken: tuple[int, ...] = (),
) -> tuple[Tensor, int]:
    """Return targets of which some are replaced, and how many.

    Symmetric: exactly round(fraction * n) labels, drawn without replacement, are each replaced by one of the other
    classes with equal probability. Asymmetric: of the n labels whose class is mistaken for another one, exactly
    round(fraction * n), drawn without replacement, are replaced by that one.

    G. Patrini, A. Rozza, A. Krishna Menon, R. Nock, L. Qu (2017), "Making Deep Neural Networks Robust to Label Noise: A
    Loss Correction Approach", section 5, for the asymmetric noise; there each label is replaced with probability
    `fraction`, here their number is exact.

    Args:
        targets: (N,) class numbers.
        fraction: Of the labels, in [0, 1].
        classes: The number of classes.
        seed: Of the draw.
        kind: `symmetric` or `asymmetric`.
        mistaken: For every class the one that it is mistaken for, itself for none; empty for the next class.

    Raises:
        UsageError: If there is no other class.
    """
    if round(fraction * len(targets)) and classes < 2:
        raise UsageError(
            f"label-noise is {fraction:g}, which needs at least two classes, the data have {classes}",
            "use --label-noise 0",
        )
    noisy = targets.clone()
    if not round(fraction * len(targets)):
        return noisy, 0
    generator = torch.Generator().manual_seed(seed + 1)
    if kind == "asymmetric":
        other = torch.tensor(mistaken or [*range(1, classes), 0])
        rows = torch.nonzero(other[targets] != targets).flatten()
        rows = rows[torch.randperm(len(rows), generator=generator)[: round(fraction * len(rows))]]
        noisy[rows] = other[targets[rows]]
        return noisy, len(rows)
    count = round(fraction * len(targets))
    rows = torch.randperm(len(targets), generator=generator)[:count]
    shift = torch.randint(1, max(classes, 2), (count,), generator=generator)
    noisy[rows] = (noisy[rows] + shift) % classes
    return noisy, count

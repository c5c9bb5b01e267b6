"""Samples whose inputs are one tensor in memory."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from sharpkit.core.task import Batch
from sharpkit.data.augment import PLAIN, Augment, Normalise
from sharpkit.data.part import ALL, Plan, Share, as_one_batch, in_order_that_fits
from sharpkit.errors import InputError, one_line


@dataclass(frozen=True)
class Samples:
    """Inputs (N, ...), integer targets (N,) and stable sample numbers (N,), all on one device.

    Args:
        inputs: What the model sees, or images (N, C, H, W) of bytes, a quarter of the memory, with `normalise`.
        targets: Class numbers.
        indices: Sample numbers.
        normalise: Makes numbers of bytes, batch by batch; None for inputs that are taken as they are.
    """

    inputs: Tensor
    targets: Tensor
    indices: Tensor
    normalise: Normalise | None = None

    def __len__(self) -> int:
        return self.inputs.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return tuple(self.inputs.shape[1:])

    def take(self, rows: Tensor) -> Samples:
        """Return the samples at the given positions."""
        rows = rows.to(self.inputs.device, non_blocking=True)
        return replace(self, inputs=self.inputs[rows], targets=self.targets[rows], indices=self.indices[rows])

    def relabelled(self, targets: Tensor) -> Samples:
        """Return the same samples with other targets."""
        return replace(self, targets=targets)

    def to(self, device: torch.device) -> Samples:
        """Return the samples on a device."""
        return Samples(self.inputs.to(device), self.targets.to(device), self.indices.to(device), self.normalise)

    def batches(self, plan: Plan, augment: Augment = PLAIN, share: Share = ALL) -> Iterator[Batch]:
        """Yield the batches of a plan, or a share of every one, augmented, as the model sees them."""
        for rows, seed in plan:
            ours, among, parts = share.of(rows)
            picked = self.take(ours)
            generator = torch.Generator().manual_seed(seed)
            inputs = augment.move(picked.inputs, generator, among)
            if self.normalise is not None:
                inputs = self.normalise(inputs)
            yield Batch(augment.blank(inputs, generator, among), picked.targets, picked.indices, parts=parts)

    def whole(self) -> Plan:
        """Return the plan of all samples for a pass without gradients."""
        return in_order_that_fits(self)

    def together(self) -> Batch:
        """Return all samples as one batch."""
        return as_one_batch(self)

    def checksum(self, start: int) -> int:
        """Continue a CRC-32 with every input and target, in their order."""
        for tensor in (self.inputs, self.targets):
            start = zlib.crc32(np.ascontiguousarray(tensor.cpu().numpy()).data.cast("B"), start)
        return start


def samples(inputs: Any, targets: Any, what: str, normalise: Normalise | None = None) -> Samples:
    """Return samples from tensors or arrays.

    Args:
        inputs: (N, ...) numbers. Bytes are divided by 255.
        targets: (N,) class numbers.
        what: What to call them in messages.
        normalise: Keep bytes as they are, and normalise them batch by batch.

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
    if normalise is None:
        x = x.float() if x.is_floating_point() else x.float() / 255 if x.dtype == torch.uint8 else x
    if x.is_complex() or not bool(torch.isfinite(x).all()):
        raise InputError(f"{what}: the inputs hold values that are not finite real numbers", "remove or replace them")
    return Samples(x, y.long(), torch.arange(len(y)), normalise)


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

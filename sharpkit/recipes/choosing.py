"""Which units of a sparse mask are chosen: the largest or smallest scores, and what fits into a budget."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor


def largest(scores: Tensor, count: int) -> Tensor:
    """Return flags (n,) of the `count` largest scores (n,); of equal ones the first counts as larger.

    A sort would do; selecting takes a fraction of its time at millions of entries, and ties are settled here, because
    torch settles them differently from device to device.
    """
    if count <= 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    if count >= scores.numel():
        return torch.ones_like(scores, dtype=torch.bool)
    threshold = torch.kthvalue(scores, scores.numel() - count + 1).values
    flags = scores > threshold
    missing = count - int(flags.sum())
    flags[torch.nonzero(scores == threshold).flatten()[:missing]] = True
    return flags


def smallest(scores: Tensor, count: int) -> Tensor:
    """Return flags (n,) of the `count` smallest scores (n,); of equal ones the last counts as smaller."""
    return ~largest(scores, scores.numel() - count)


def fitting(order: Tensor, sizes: Tensor, budget: int) -> Tensor:
    """Return flags (n,) of the units that fit into a budget of entries, taken in an order as long as they still fit."""
    flags = torch.zeros(len(sizes), dtype=torch.bool)
    entries = cast("list[int]", sizes.tolist())
    for unit in cast("list[int]", order.tolist()):
        if entries[unit] <= budget:
            budget -= entries[unit]
            flags[unit] = True
    return flags

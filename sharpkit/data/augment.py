"""Augmentation of a batch of images as a few tensor operations, drawn from a seeded generator."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def random_crop(images: Tensor, pad: int, generator: torch.Generator) -> Tensor:
    """Shift every image by up to `pad` pixels each way; what comes in is zero.

    Args:
        images: (B, C, H, W).
        pad: The largest shift.
        generator: On the CPU, so that every device draws the same shifts.
    """
    count, _, height, width = images.shape
    corner = torch.randint(0, 2 * pad + 1, (2, count, 1), generator=generator)
    rows = (corner[0] + torch.arange(height)).to(images.device)
    cols = (corner[1] + torch.arange(width)).to(images.device)
    padded = functional.pad(images, (pad, pad, pad, pad))
    sample = torch.arange(count, device=images.device)[:, None, None]
    return padded.movedim(1, -1)[sample, rows[:, :, None], cols[:, None, :]].movedim(-1, 1)


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror every image left to right with probability 1/2; images are (B, C, H, W)."""
    chosen = torch.rand(images.shape[0], generator=generator).to(images.device) < 0.5
    return torch.where(chosen[:, None, None, None], images.flip(-1), images)


def random_cutout(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Blank a square around a random pixel of every image, cut off at the border (DeVries and Taylor 2017).

    Args:
        images: (B, C, H, W).
        side: Of the square, in pixels.
        generator: On the CPU.
    """
    count, _, height, width = images.shape
    top = torch.randint(0, height, (count, 1), generator=generator) - side // 2
    left = torch.randint(0, width, (count, 1), generator=generator) - side // 2
    rows, cols = torch.arange(height), torch.arange(width)
    in_rows = (rows >= top) & (rows < top + side)
    in_cols = (cols >= left) & (cols < left + side)
    hole = (in_rows[:, :, None] & in_cols[:, None, :]).to(images.device)
    return images.masked_fill(hole[:, None], 0.0)

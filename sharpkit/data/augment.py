"""Augmentation of a batch of images as a few tensor operations, drawn from a seeded generator."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

Augmentation = Literal["none", "basic", "cutout"]


class Among(NamedTuple):
    """Which images of a larger batch these are; what is drawn for them does not depend on who has the others.

    Args:
        whole: Images of the larger batch.
        positions: Of these in it, (B,).
    """

    whole: int
    positions: Tensor


@dataclass(frozen=True)
class Augment:
    """What is done to training images: shifted and mirrored before they are normalised, blanked after it.

    So what comes in at the border is black in images that are stored as bytes, and a blank is the mean colour, as in
    the code of DeVries and Taylor (2017) and of the papers since.

    Args:
        kind: `none`, `basic` (crop and flip) or `cutout` (basic, then cutout).
        pad: Pixels of padding of a random crop; 0 for none.
        flip: Whether images are mirrored.
        cutout: Side of the square that cutout blanks, in pixels; 0 for a quarter of the width.
        prob: Probability with which cutout is applied to an image.
    """

    kind: Augmentation = "none"
    pad: int = 0
    flip: bool = False
    cutout: int = 0
    prob: float = 1.0

    def move(self, images: Tensor, generator: torch.Generator, among: Among | None = None) -> Tensor:
        """Shift and mirror images (B, C, H, W)."""
        if self.kind != "none" and self.pad:
            images = random_crop(images, self.pad, generator, among)
        if self.kind != "none" and self.flip:
            images = random_flip(images, generator, among)
        return images

    def blank(self, images: Tensor, generator: torch.Generator, among: Among | None = None) -> Tensor:
        """Blank a part of images (B, C, H, W), if cutout is wanted."""
        if self.kind != "cutout":
            return images
        return random_cutout(images, self.cutout or images.shape[-1] // 4, generator, among, self.prob)


PLAIN = Augment()


@dataclass(frozen=True)
class Normalise:
    """From bytes to numbers: (x / 255 - mean) / std, channel by channel.

    Args:
        mean: Of every channel, for pixels in [0, 1].
        std: The same.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """Return float32 images from uint8 ones, (B, C, H, W), in their memory format."""
        mean, std = _bytes(self.mean, images.device), _bytes(self.std, images.device)
        last = images.permute(0, 2, 3, 1)
        if images.is_contiguous() or not last.is_contiguous():
            return images.to(torch.float32).sub_(mean[:, None, None]).div_(std[:, None, None])
        # Three numbers that repeat keep a processor from working on several at a time; those of a row do not.
        rows, width = last.flatten(2), images.shape[3]
        return (
            rows.to(torch.float32).sub_(mean.repeat(width)).div_(std.repeat(width)).view(last.shape).permute(0, 3, 1, 2)
        )


@lru_cache(maxsize=32)
def _bytes(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return numbers of channels in units of a byte, (C,), kept so that no batch waits for a transfer."""
    return 255 * torch.tensor(values, device=device)


def random_crop(images: Tensor, pad: int, generator: torch.Generator, among: Among | None = None) -> Tensor:
    """Shift every image by up to `pad` pixels each way; what comes in is zero.

    Args:
        images: (B, C, H, W).
        pad: The largest shift.
        generator: On the CPU, so that every device draws the same shifts.
        among: Of which larger batch they are; None is of none.
    """
    count, _, height, width = images.shape
    drawn = torch.randint(0, 2 * pad + 1, (2, among.whole if among else count, 1), generator=generator)[..., 0]
    corner = (drawn if among is None else drawn[:, among.positions]).to(images.device)
    # With the channels last a row of a shifted image is one piece of memory.
    padded = functional.pad(images.movedim(1, -1), (0, 0, pad, pad, pad, pad))
    shifted = padded.unfold(1, height, 1).unfold(2, width, 1).movedim(3, -1)
    return shifted[torch.arange(count, device=images.device), corner[0], corner[1]].movedim(-1, 1)


def random_flip(images: Tensor, generator: torch.Generator, among: Among | None = None) -> Tensor:
    """Mirror every image left to right with probability 1/2; images are (B, C, H, W)."""
    drawn = torch.rand(among.whole if among else images.shape[0], generator=generator)
    chosen = (drawn if among is None else drawn[among.positions]).to(images.device) < 0.5
    return torch.where(chosen[:, None, None, None], images.flip(-1), images)


def random_cutout(
    images: Tensor, side: int, generator: torch.Generator, among: Among | None = None, prob: float = 1.0
) -> Tensor:
    """Blank a square around a random pixel of an image, cut off at the border (DeVries and Taylor 2017).

    The centre is uniform over all pixels.

    Args:
        images: (B, C, H, W).
        side: Of the square, in pixels.
        generator: On the CPU.
        among: Of which larger batch they are; None is of none.
        prob: Probability with which an image is blanked, independent of the others.
    """
    count, _, height, width = images.shape
    count = among.whole if among else count
    top = torch.randint(0, height, (count, 1), generator=generator) - side // 2
    left = torch.randint(0, width, (count, 1), generator=generator) - side // 2
    hit = torch.rand((count, 1), generator=generator) < prob if prob < 1 else None  # 1 draws what it always drew
    if among is not None:
        top, left = top[among.positions], left[among.positions]
        hit = None if hit is None else hit[among.positions]
    rows, cols = torch.arange(height), torch.arange(width)
    in_rows = (rows >= top) & (rows < top + side)
    in_cols = (cols >= left) & (cols < left + side)
    if hit is not None:
        in_rows &= hit
    hole = (in_rows[:, :, None] & in_cols[:, None, :]).to(images.device)
    return images.masked_fill(hole[:, None], 0.0)

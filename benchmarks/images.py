"""The images that `throughput.py` trains on: as one tensor, and as PIL images with a transform."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from sharpkit.data.augment import Normalise
from sharpkit.data.dataset import Dataset as Images
from sharpkit.data.dataset import samples

MEAN, DEVIATION = 0.5, 0.25
BYTES = int(os.environ.get("BENCHMARK_IMAGES", "8192"))


def raw(count: int, channels: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return random bytes (N, H, W, C) and classes (N,)."""
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (count, side, side, channels), np.uint8), generator.integers(0, 10, count)


def held(count: int, channels: int, side: int, pad: int) -> Images:
    """Return them as one tensor, for `--data file.py:function`."""
    pixels, classes = raw(count, channels, side)
    inputs = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - MEAN) / DEVIATION
    part = samples(inputs.contiguous(), classes, "images")
    return Images("images", part, part, 10, pad=pad, flip=True, augment="basic")


def digits_like() -> Images:
    return held(4096, 1, 8, 1)


def cifar_like() -> Images:
    return held(512, 3, 32, 4)


def few_cifar_like() -> Images:
    return held(64, 3, 32, 4)


def bytes_like() -> Images:
    """Return them as bytes, which are normalised on the device."""
    pixels, classes = raw(BYTES, 3, 32)
    normalise = Normalise((MEAN,) * 3, (DEVIATION,) * 3)
    part = samples(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), classes, "images", normalise)
    return Images("images", part, part, 10, pad=4, flip=True, augment="basic")


class Pictures(Dataset[tuple[Tensor, int]]):
    """PIL images with a transform, as in torchvision.datasets."""

    def __init__(self, data: Images) -> None:
        pixels, self.classes = raw(len(data.train), data.shape[0], data.shape[1])
        self.images = [Image.fromarray(p[:, :, 0] if p.shape[2] == 1 else p) for p in pixels]
        self.transform = transform_of(data.shape[1], data.pad)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), int(self.classes[index])


def transform_of(side: int, pad: int) -> Callable[[Image.Image], Tensor]:
    """Return random crop, random flip, conversion and normalisation of one image."""
    try:
        from torchvision import transforms  # pyright: ignore[reportMissingImports]
    except Exception:  # missing, or built for another torch
        return ByHand(side, pad)
    steps = [transforms.RandomCrop(side, pad), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    return transforms.Compose([*steps, transforms.Normalize(MEAN, DEVIATION)])


class ByHand:
    """What torchvision's transforms do to one image."""

    def __init__(self, side: int, pad: int) -> None:
        self.side, self.pad = side, pad

    def __call__(self, image: Image.Image) -> Tensor:
        """Return the image as numbers (C, H, W)."""
        top, left = torch.randint(0, 2 * self.pad + 1, (2,)).tolist()
        image = ImageOps.expand(image, self.pad).crop((left, top, left + self.side, top + self.side))
        if torch.rand(1) < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image, np.uint8, copy=True)).view(self.side, self.side, -1)
        return pixels.permute(2, 0, 1).contiguous().float().div(255).sub_(MEAN).div_(DEVIATION)

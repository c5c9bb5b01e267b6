"""A small convolutional network with batch norm."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from sharpkit.models.blocks import image_channels


def cnn(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return four 3x3 convolutions with batch norm (32, 32, 64, 64 channels) and a linear read-out.

    The image is halved once in the middle and averaged at the end; 66,410 parameters for three channels and 10 classes.

    Args:
        shape: (C, H, W) of one image.
        classes: Outputs.

    Raises:
        UsageError: If the inputs are no images.
    """
    channels = (image_channels("cnn", shape), 32, 32, 64, 64)
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(pairwise(channels)):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        if i == 1 and min(shape[1:]) >= 2:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], classes))

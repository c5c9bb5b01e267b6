"""DenseNet-BC for small images: Huang et al. (2017), "Densely Connected Convolutional Networks".

`densenet121` has the four dense blocks of the ImageNet network in table 1, and the stem of the paper's CIFAR networks:
one 3x3 convolution to twice the growth rate, with stride 1, no batch norm and no pooling. The paper itself has no such
mixture (its CIFAR networks have three blocks of equal length); it is the DenseNet-121 of pytorch-cifar, with the same
number of parameters. There is no dropout. Initial weights are those of `blocks.initialised`. Images of any number of
channels are taken; three halvings need 8 pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sharpkit.models.blocks import conv3x3, image_channels, network, normalised


class DenseLayer(nn.Module):
    """A bottleneck to 4 growth channels and a 3x3 convolution, whose output is appended to the input (equation 2).

    Args:
        before: Channels of the input.
        growth: Channels that are appended.
    """

    def __init__(self, before: int, growth: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            normalised(before),
            nn.Conv2d(before, 4 * growth, 1, bias=False),
            normalised(4 * growth),
            conv3x3(4 * growth, growth),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, before, H, W) to (B, before + growth, H, W)."""
        return torch.cat([x, self.layers(x)], 1)


def densenet(channels: int, classes: int, counts: tuple[int, ...], growth: int) -> nn.Module:
    """Return a DenseNet-BC: a transition before every block but the first halves the channels and the image.

    Args:
        channels: Of the image.
        classes: Outputs.
        counts: Layers a dense block.
        growth: Growth rate k.
    """
    features = 2 * growth
    stem = conv3x3(channels, features)
    stages: list[nn.Module] = []
    for number, count in enumerate(counts):
        layers: list[nn.Module] = []
        if number:
            shrink = nn.Conv2d(features, features // 2, 1, bias=False)
            layers += [normalised(features), shrink, nn.AvgPool2d(2)]
            features //= 2
        layers += [DenseLayer(features + i * growth, growth) for i in range(count)]
        features += count * growth
        stages.append(nn.Sequential(*layers))
    return network(stem, stages, normalised(features), features, classes)


def densenet121(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return DenseNet-121 with growth rate 32 and a stem for small images.

    Huang, Liu, van der Maaten, Weinberger (2017), section 3, table 1. 6,956,298 parameters.
    """
    return densenet(image_channels("densenet121", shape, smallest=8), classes, (6, 12, 24, 16), 32)

"""Pyramidal residual networks: Han, Kim, Kim (2017), "Deep Pyramidal Residual Networks".

Every block is wider than the one before by the same number of channels. A block has one rectification only, between its
convolutions, and ends in batch norm (figure 6 d). Shortcuts have no parameters: 2x2 averages where the image is halved,
and zeros for the new channels. Batch norm follows the stem, as in the authors' code.

`pyramidnet110` with alpha 270 and basic blocks is the network of ESAM (Du et al. 2022), whose code builds it so. That
of SAM (Foret et al. 2021) is another, PyramidNet-272 with alpha 200, bottlenecks and ShakeDrop. Widths are rounded
down, as in equation 2, where ports and later papers round to the nearest; with alpha 270 every block adds 5 channels,
so there is no difference. Initial weights are those of `blocks.initialised`. Images of any size and number of channels
are taken.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from sharpkit.models.blocks import Padded, conv3x3, image_channels, network, normalised

_STEM = 16


class PyramidBlock(nn.Module):
    """Batch norm, convolution, batch norm, rectification, convolution, batch norm, added to a padded shortcut.

    Args:
        before: Channels of the input.
        after: Channels of the output.
        stride: Of the first convolution.
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before)
        self.conv1 = conv3x3(before, after, stride)
        self.bn2 = nn.BatchNorm2d(after)
        self.conv2 = conv3x3(after, after)
        self.bn3 = nn.BatchNorm2d(after)
        # Rounded up, as the convolution's stride does with an odd number of pixels.
        pool = nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity()
        self.shortcut = Padded(pool, after - before)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, before, H, W) to (B, after, H / stride, W / stride)."""
        out = functional.relu(self.bn2(self.conv1(self.bn1(x))))
        return self.bn3(self.conv2(out)) + self.shortcut(x)


def pyramidnet(channels: int, classes: int, depth: int, alpha: int) -> nn.Module:
    """Return an additive PyramidNet of basic blocks: three stages of (depth - 2) / 6 blocks.

    Args:
        channels: Of the image.
        classes: Outputs.
        depth: Convolutions and the linear layer.
        alpha: How many channels all blocks together add to the stem's 16.
    """
    count = (depth - 2) // 6
    widths = [_STEM + alpha * k // (3 * count) for k in range(3 * count + 1)]
    blocks = [
        PyramidBlock(widths[k], widths[k + 1], 2 if k in (count, 2 * count) else 1) for k in range(len(widths) - 1)
    ]
    stem = nn.Sequential(conv3x3(channels, _STEM), nn.BatchNorm2d(_STEM))
    stages = [nn.Sequential(*blocks[i * count : (i + 1) * count]) for i in range(3)]
    return network(stem, stages, normalised(widths[-1]), widths[-1], classes)


def pyramidnet110(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return PyramidNet-110 with alpha 270 and basic blocks.

    Han, Kim, Kim (2017), section 2. 28,485,477 parameters (28.3M in the authors' table).
    """
    return pyramidnet(image_channels("pyramidnet110", shape), classes, 110, 270)

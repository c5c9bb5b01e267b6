"""Wide residual networks: Zagoruyko, Komodakis (2016), "Wide Residual Networks".

Blocks of two 3x3 convolutions, each after batch norm and rectification. Where the shape changes, the shortcut is a 1x1
convolution without batch norm of the block's rectified input, as in the authors' code; ports that feed it the raw input
have the same number of parameters and compute something else. There is no dropout; the paper's tables have results with
and without. Initial weights are those of `blocks.initialised`. Images of any size and number of channels are taken.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from sharpkit.models.blocks import conv3x3, image_channels, network, normalised, stage


class WideBlock(nn.Module):
    """Two 3x3 convolutions, each after batch norm and rectification, and a shortcut (figure 1 c).

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
        changes = stride != 1 or before != after
        self.shortcut = nn.Conv2d(before, after, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, before, H, W) to (B, after, H / stride, W / stride)."""
        active = functional.relu(self.bn1(x))
        out = self.conv2(functional.relu(self.bn2(self.conv1(active))))
        return out + (x if self.shortcut is None else self.shortcut(active))


def wide_resnet(channels: int, classes: int, depth: int, widen: int) -> nn.Module:
    """Return WRN-depth-widen: a stem of 16 channels and three stages of (depth - 4) / 6 blocks (table 1).

    Args:
        channels: Of the image.
        classes: Outputs.
        depth: Number of convolutions, the three on shortcuts counted.
        widen: Widening factor.
    """
    count, widths = (depth - 4) // 6, (16, 16 * widen, 32 * widen, 64 * widen)
    stages = [stage(WideBlock, widths[i], widths[i + 1], count, 1 if i == 0 else 2) for i in range(3)]
    return network(conv3x3(channels, 16), stages, normalised(widths[-1]), widths[-1], classes)


def wrn28_2(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return the wide ResNet WRN-28-2.

    Zagoruyko, Komodakis (2016), section 2. 1,467,610 parameters.
    """
    return wide_resnet(image_channels("wrn28-2", shape), classes, 28, 2)


def wrn28_10(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return the wide ResNet WRN-28-10.

    Zagoruyko, Komodakis (2016), section 2. 36,479,194 parameters (36.5M in table 5).
    """
    return wide_resnet(image_channels("wrn28-10", shape), classes, 28, 10)


def wrn16_8(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return the wide ResNet WRN-16-8.

    Zagoruyko, Komodakis (2016), section 2. 10,961,370 parameters (11.0M in table 5).
    """
    return wide_resnet(image_channels("wrn16-8", shape), classes, 16, 8)


def wrn34_2(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return WRN-34-2, which is what the code of SAMPa and BiSAM builds for WRN-28-2.

    Xie et al. (2024), authors' model/wide_res_net, with its initial weights. 1,855,578 parameters.
    """
    return _of_sampa(wide_resnet(image_channels("wrn34-2", shape), classes, 34, 2))


def wrn34_10(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return WRN-34-10, which is what the code of SAMPa and BiSAM builds for WRN-28-10.

    Xie et al. (2024), authors' model/wide_res_net, with its initial weights. 46,160,474 parameters.
    """
    return _of_sampa(wide_resnet(image_channels("wrn34-10", shape), classes, 34, 10))


def _of_sampa(model: nn.Module) -> nn.Module:
    """Return a model with convolutions normal with variance 2 / fan-in, and a head of zeros.

    Of a stage with (28 - 4) / 6 = 4 blocks that code makes one of another kind and 4 more, hence 34 layers.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.weight)
    return model

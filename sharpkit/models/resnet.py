"""Residual networks for small images: He, Zhang, Ren, Sun (2016), "Deep Residual Learning for Image Recognition".

`resnet20` to `resnet110` are those of section 4.2. Their shortcuts have no parameters (option A), as in the paper; many
ports project instead (option B), which `resnet20-projection` to `resnet110-projection` do. The zeros of option A come
behind the old channels, as in fb.resnet.torch; ports that put one half before and one behind compute the same functions
with the channels in another order. `resnet18` is the ImageNet network of section 4.1 in the form that CIFAR papers use:
a 3x3 stem with stride 1 and no max-pooling, so that the last stage still sees 4x4 pixels of 32x32.

Initial weights are those of `blocks.initialised`. Batch norm at the end of a residual branch starts with scale 1, not
0. Images of any size and number of channels are taken.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn import functional

from sharpkit.models.blocks import Block, conv3x3, image_channels, network, normalised, padding, projection, stage


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, added to a shortcut before the last rectification (figure 2).

    Args:
        before: Channels of the input.
        after: Channels of the output.
        stride: Of the first convolution.
        shortcut: What the shortcut is where the shape changes; elsewhere it is the identity.
    """

    def __init__(self, before: int, after: int, stride: int, shortcut: Block) -> None:
        super().__init__()
        self.conv1 = conv3x3(before, after, stride)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = conv3x3(after, after)
        self.bn2 = nn.BatchNorm2d(after)
        changes = stride != 1 or before != after
        self.shortcut = shortcut(before, after, stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, before, H, W) to (B, after, H / stride, W / stride)."""
        out = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


def resnet(channels: int, classes: int, widths: tuple[int, ...], count: int, shortcut: Block) -> nn.Module:
    """Return a residual network with `count` basic blocks a stage.

    Args:
        channels: Of the image.
        classes: Outputs.
        widths: Channels of the stages; every stage but the first halves the image.
        count: Blocks a stage.
        shortcut: What the shortcuts are where the shape changes.
    """
    block = partial(BasicBlock, shortcut=shortcut)
    stem = nn.Sequential(conv3x3(channels, widths[0]), normalised(widths[0]))
    befores = (widths[0], *widths)
    stages = [stage(block, befores[i], width, count, 1 if i == 0 else 2) for i, width in enumerate(widths)]
    return network(stem, stages, nn.Identity(), widths[-1], classes)


def resnet18(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return ResNet-18 with a stem for small images.

    He, Zhang, Ren, Sun (2016), section 4.1, table 1, with the 3x3 stem of section 4.2. 11,173,962 parameters.
    """
    return resnet(image_channels("resnet18", shape), classes, (64, 128, 256, 512), 2, projection)


def _thin(depth: int, shape: tuple[int, ...], classes: int, shortcut: Block = padding) -> nn.Module:
    """Return a network of section 4.2: a stem, three stages of (depth - 2) / 6 blocks and a linear layer."""
    name = f"resnet{depth}" if shortcut is padding else f"resnet{depth}-projection"
    return resnet(image_channels(name, shape), classes, (16, 32, 64), (depth - 2) // 6, shortcut)


def resnet20(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return ResNet-20 with shortcuts without parameters.

    He, Zhang, Ren, Sun (2016), section 4.2. 269,722 parameters (0.27M in table 6).
    """
    return _thin(20, shape, classes)


def resnet32(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return ResNet-32 with shortcuts without parameters.

    He, Zhang, Ren, Sun (2016), section 4.2. 464,154 parameters (0.46M in table 6).
    """
    return _thin(32, shape, classes)


def resnet44(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return ResNet-44 with shortcuts without parameters.

    He, Zhang, Ren, Sun (2016), section 4.2. 658,586 parameters (0.66M in table 6).
    """
    return _thin(44, shape, classes)


def resnet56(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return ResNet-56 with shortcuts without parameters.

    He, Zhang, Ren, Sun (2016), section 4.2. 853,018 parameters (0.85M in table 6).
    """
    return _thin(56, shape, classes)


def resnet110(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return ResNet-110 with shortcuts without parameters.

    He, Zhang, Ren, Sun (2016), section 4.2. 1,727,962 parameters (1.7M in table 6). The paper warms its learning rate
    up with 0.01; 0.1 from the start is slow to begin.
    """
    return _thin(110, shape, classes)


def resnet20_projection(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return ResNet-20 with projections where the shape changes.

    He, Zhang, Ren, Sun (2016), section 4.2 with option B of section 3.3. 272,474 parameters.
    """
    return _thin(20, shape, classes, projection)


def resnet32_projection(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return ResNet-32 with projections where the shape changes.

    He, Zhang, Ren, Sun (2016), section 4.2 with option B of section 3.3. 466,906 parameters.
    """
    return _thin(32, shape, classes, projection)


def resnet44_projection(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return ResNet-44 with projections where the shape changes.

    He, Zhang, Ren, Sun (2016), section 4.2 with option B of section 3.3. 661,338 parameters.
    """
    return _thin(44, shape, classes, projection)


def resnet56_projection(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return ResNet-56 with projections where the shape changes.

    He, Zhang, Ren, Sun (2016), section 4.2 with option B of section 3.3. 855,770 parameters.
    """
    return _thin(56, shape, classes, projection)


def resnet110_projection(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return ResNet-110 with projections where the shape changes.

    He, Zhang, Ren, Sun (2016), section 4.2 with option B of section 3.3. 1,730,714 parameters.
    """
    return _thin(110, shape, classes, projection)

"""VGG with batch norm for small images: Simonyan, Zisserman (2015), "Very Deep Convolutional Networks ...".

The convolutions are those of table 1. Of 32x32 pixels five poolings leave one, so the two hidden linear layers have 512
units, not 4096: the head of the CIFAR ports pytorch-vgg-cifar10 and pytorch-cifar-models, which keeps the three linear
layers that the name's depth counts. Dropout of 0.5 follows both, as in the paper's section 3.1; the first of these
ports puts it before them. Other ports have one linear layer, or three of 4096 units. Larger images are averaged to one
pixel before the head.

Batch norm follows every convolution, which therefore has no bias: batch norm would subtract it again (Ioffe, Szegedy
2015, section 3.2), so a bias would only add a direction in which the loss is flat. Ports keep these biases, 2,752,
4,224 and 5,504 parameters. Initial weights are those of `blocks.initialised`, where the paper trained the smallest
network first. `vgg11-bn-4096` is the network of Sparse SAM's code: hidden layers of 4096 units, biases, and PyTorch's
own initial weights.
"""

from __future__ import annotations

from torch import nn

from sharpkit.models.blocks import image_channels, initialised, normalised

_HIDDEN = 512


def vgg(
    channels: int, classes: int, counts: tuple[int, ...], hidden: int = _HIDDEN, *, plain: bool = False
) -> nn.Module:
    """Return a network of five stages, each of which ends in a max-pooling, and three linear layers.

    Args:
        channels: Of the image.
        classes: Outputs.
        counts: Convolutions a stage.
        hidden: Units of the two hidden linear layers.
        plain: Whether convolutions have biases and all layers keep PyTorch's initial weights.
    """
    model = nn.Sequential()
    before = channels
    for number, (width, count) in enumerate(zip((64, 128, 256, 512, 512), counts, strict=True), 1):
        layers: list[nn.Module] = []
        for _ in range(count):
            layers += [nn.Conv2d(before, width, 3, padding=1, bias=plain), normalised(width)]
            before = width
        model.add_module(f"stage{number}", nn.Sequential(*layers, nn.MaxPool2d(2)))
    model.add_module("pool", nn.AdaptiveAvgPool2d(1))
    model.add_module("flatten", nn.Flatten())
    for number in (1, 2):
        model.add_module(f"hidden{number}", nn.Sequential(nn.Linear(before, hidden), nn.ReLU(), nn.Dropout()))
        before = hidden
    model.add_module("head", nn.Linear(before, classes))
    return model if plain else initialised(model)


def vgg11_bn(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return VGG-11 with batch norm and a small head.

    Simonyan, Zisserman (2015), section 2, table 1, column A. 9,753,674 parameters.
    """
    return vgg(image_channels("vgg11-bn", shape, smallest=32), classes, (1, 1, 2, 2, 2))


def vgg11_bn_4096(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return VGG-11 with batch norm and hidden layers of 4096 units, as in the code of Sparse SAM.

    Mi et al. (2022), authors' models/vgg. 28,149,514 parameters.
    """
    return vgg(image_channels("vgg11-bn-4096", shape, smallest=32), classes, (1, 1, 2, 2, 2), 4096, plain=True)


def vgg16_bn(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return VGG-16 with batch norm and a small head.

    Simonyan, Zisserman (2015), section 2, table 1, column D. 15,249,354 parameters.
    """
    return vgg(image_channels("vgg16-bn", shape, smallest=32), classes, (2, 2, 3, 3, 3))


def vgg19_bn(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return VGG-19 with batch norm and a small head.

    Simonyan, Zisserman (2015), section 2, table 1, column E. 20,560,330 parameters.
    """
    return vgg(image_channels("vgg19-bn", shape, smallest=32), classes, (2, 2, 4, 4, 4))

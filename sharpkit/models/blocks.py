"""What several models are built of: shortcuts, stages, read-out, initialisation, and the check of the input shape."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional

from sharpkit.errors import UsageError

Block = Callable[[int, int, int], nn.Module]
"""A block from its channels before and after and its stride."""


def image_channels(model: str, shape: tuple[int, ...], smallest: int = 1, multiple: int = 1) -> int:
    """Return the number of channels of images that a model takes.

    Args:
        model: Its name, for the message.
        shape: (C, H, W) of one image.
        smallest: The shortest side that it takes.
        multiple: What every side must be a multiple of.

    Raises:
        UsageError: If the inputs are no images, or not of a size that the model takes.
    """
    if len(shape) != 3:
        raise UsageError(f"the model {model} needs images (C, H, W), the data have shape {shape}", "use --model mlp")
    channels, height, width = shape
    if min(height, width) < smallest or height % multiple or width % multiple:
        sizes = (
            f"of at least {smallest}x{smallest} pixels" if multiple == 1 else f"with sides 1, 2, ... times {multiple}"
        )
        raise UsageError(
            f"the model {model} needs images {sizes}, the data have {height}x{width}",
            "use --model cnn or resnet20, which take any size",
        )
    return channels


def conv3x3(before: int, after: int, stride: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution without bias, since a batch norm follows it or has gone before."""
    return nn.Conv2d(before, after, 3, stride, 1, bias=False)


class Padded(nn.Module):
    """A shortcut without parameters: pooling, then zeros for the channels that are new.

    Args:
        pool: Makes the image as small as the block's.
        new: How many channels the block adds.
    """

    def __init__(self, pool: nn.Module, new: int) -> None:
        super().__init__()
        self.pool = pool
        self.new = new

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C + new, H', W')."""
        return functional.pad(self.pool(x), (0, 0, 0, 0, 0, self.new))


def padding(before: int, after: int, stride: int) -> nn.Module:
    """Return the shortcut A of He et al. (2016): every stride-th pixel, and zeros for the new channels."""
    return Padded(nn.AvgPool2d(1, stride), after - before)


def projection(before: int, after: int, stride: int) -> nn.Module:
    """Return the shortcut B of He et al. (2016): a 1x1 convolution with batch norm."""
    return nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))


def stage(block: Block, before: int, after: int, count: int, stride: int) -> nn.Sequential:
    """Return blocks in a row, of which the first changes channels and size."""
    return nn.Sequential(block(before, after, stride), *(block(after, after, 1) for _ in range(count - 1)))


def normalised(features: int) -> nn.Sequential:
    """Return batch norm and rectification."""
    return nn.Sequential(nn.BatchNorm2d(features), nn.ReLU())


def network(stem: nn.Module, stages: Sequence[nn.Module], last: nn.Module, features: int, classes: int) -> nn.Module:
    """Return a convolutional network that reads its classes out of the average over the image, initialised.

    Args:
        stem: What comes before the stages.
        stages: The blocks, by size of the image.
        last: What comes after the stages.
        features: Channels that it gives.
        classes: Outputs.
    """
    parts: OrderedDict[str, nn.Module] = OrderedDict(stem=stem)
    parts.update((f"stage{number}", blocks) for number, blocks in enumerate(stages, 1))
    parts.update(last=last, pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), head=nn.Linear(features, classes))
    return initialised(nn.Sequential(parts))


def initialised(model: nn.Module) -> nn.Module:
    """Return a convolutional network with the initial weights that its family's authors train from.

    Convolutions are normal with variance 2 / fan-out (He et al. 2015, equation 14, which fb.resnet.torch uses and the
    authors of wide ResNets, DenseNets and PyramidNets with it). Batch norm starts as the identity, also at the end of
    a residual branch. Linear layers keep torch's uniform weights, as there, and have no bias at first.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:  # torch takes seconds to draw nothing
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
    return model

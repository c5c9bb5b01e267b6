"""Models by name: functions `(shape of one input, classes) -> nn.Module`."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from sharpkit.models import resnet
from sharpkit.models.cnn import cnn
from sharpkit.models.densenet import densenet121
from sharpkit.models.mlp import mlp
from sharpkit.models.pyramidnet import pyramidnet110
from sharpkit.models.vgg import vgg11_bn, vgg16_bn, vgg19_bn
from sharpkit.models.vit import vit_s16
from sharpkit.models.wide_resnet import wrn16_8, wrn28_2, wrn28_10

MODELS: dict[str, Callable[[tuple[int, ...], int], nn.Module]] = {
    "mlp": mlp,
    "cnn": cnn,
    "resnet18": resnet.resnet18,
    "resnet20": resnet.resnet20,
    "resnet32": resnet.resnet32,
    "resnet44": resnet.resnet44,
    "resnet56": resnet.resnet56,
    "resnet110": resnet.resnet110,
    "resnet20-projection": resnet.resnet20_projection,
    "resnet32-projection": resnet.resnet32_projection,
    "resnet44-projection": resnet.resnet44_projection,
    "resnet56-projection": resnet.resnet56_projection,
    "resnet110-projection": resnet.resnet110_projection,
    "wrn28-2": wrn28_2,
    "wrn28-10": wrn28_10,
    "wrn16-8": wrn16_8,
    "vgg11-bn": vgg11_bn,
    "vgg16-bn": vgg16_bn,
    "vgg19-bn": vgg19_bn,
    "densenet121": densenet121,
    "pyramidnet110": pyramidnet110,
    "vit-s16": vit_s16,
}

"""Models by name: functions `(shape of one input, classes) -> nn.Module`.

This module does not import torch, so that the names and what they stand for can be listed at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    Builder = Callable[[tuple[int, ...], int], nn.Module]

HOMES = {
    "mlp": "mlp:mlp",
    "cnn": "cnn:cnn",
    "resnet18": "resnet:resnet18",
    "resnet20": "resnet:resnet20",
    "resnet32": "resnet:resnet32",
    "resnet44": "resnet:resnet44",
    "resnet56": "resnet:resnet56",
    "resnet110": "resnet:resnet110",
    "resnet20-projection": "resnet:resnet20_projection",
    "resnet32-projection": "resnet:resnet32_projection",
    "resnet44-projection": "resnet:resnet44_projection",
    "resnet56-projection": "resnet:resnet56_projection",
    "resnet110-projection": "resnet:resnet110_projection",
    "wrn28-2": "wide_resnet:wrn28_2",
    "wrn28-10": "wide_resnet:wrn28_10",
    "wrn16-8": "wide_resnet:wrn16_8",
    "wrn34-2": "wide_resnet:wrn34_2",
    "wrn34-10": "wide_resnet:wrn34_10",
    "vgg11-bn": "vgg:vgg11_bn",
    "vgg11-bn-4096": "vgg:vgg11_bn_4096",
    "vgg16-bn": "vgg:vgg16_bn",
    "vgg19-bn": "vgg:vgg19_bn",
    "densenet121": "densenet:densenet121",
    "pyramidnet110": "pyramidnet:pyramidnet110",
    "vit-s16": "vit:vit_s16",
}
"""The file and the function of every model."""


FORMS = {
    "torchvision:NAME": "a classification model of torchvision",
    "timm:NAME": "a model of timm (extra timm)",
    "hf:DIR": "a sequence classifier of Hugging Face transformers in a local folder, for texts (extra hf)",
    "file.py:function": "a function of one's own: shape of an input, number of classes -> module",
}
"""What names of other forms stand for."""


class _Models(Mapping[str, "Builder"]):
    """The builders; a file is imported when one of its models is asked for."""

    def __getitem__(self, name: str) -> Builder:
        module, _, function = HOMES[name].partition(":")
        return getattr(import_module(f"{__name__}.{module}"), function)

    def __iter__(self) -> Iterator[str]:
        return iter(HOMES)

    def __len__(self) -> int:
        return len(HOMES)


MODELS: Mapping[str, Builder] = _Models()

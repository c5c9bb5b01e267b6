"""A stand-in for the transforms of torchvision that are used, drawing from torch's global stream as they do."""

import importlib
import itertools
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image


def works():
    try:
        importlib.import_module("torchvision.transforms.v2")
    except Exception:
        return False
    return True


class Compose:
    def __init__(self, steps):
        self.steps = steps

    def __call__(self, image):
        for step in self.steps:
            image = step(image)
        return image


class RandomResizedCrop:
    def __init__(self, side):
        self.side = side

    def __call__(self, image):
        cut = 0.5 + 0.5 * float(torch.rand(1))
        width, height = (max(1, int(n * cut)) for n in image.size)
        left = int(torch.randint(0, image.width - width + 1, (1,)))
        top = int(torch.randint(0, image.height - height + 1, (1,)))
        return image.crop((left, top, left + width, top + height)).resize((self.side, self.side))


class RandomHorizontalFlip:
    def __call__(self, image):
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if float(torch.rand(1)) < 0.5 else image


class Resize:
    def __init__(self, side):
        self.side = side

    def __call__(self, image):
        scale = self.side / min(image.size)
        return image.resize(tuple(max(self.side, int(n * scale)) for n in image.size))


class CenterCrop:
    def __init__(self, side):
        self.side = side

    def __call__(self, image):
        left, top = round((image.width - self.side) / 2), round((image.height - self.side) / 2)
        return image.crop((left, top, left + self.side, top + self.side))


class PILToTensor:
    def __call__(self, image):
        return torch.as_tensor(np.array(image)).permute(2, 0, 1)


def stand_in(monkeypatch):
    modules = [ModuleType(name) for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.v2")]
    for outer, inner in itertools.pairwise(modules):
        setattr(outer, inner.__name__.rpartition(".")[2], inner)
    for module in modules:
        module.__path__ = []
        monkeypatch.setitem(sys.modules, module.__name__, module)
    for part in (Compose, RandomResizedCrop, RandomHorizontalFlip, Resize, CenterCrop, PILToTensor):
        setattr(modules[-1], part.__name__, part)


@pytest.fixture(params=["stand-in", pytest.param("real", marks=pytest.mark.skipif(not works(), reason="not there"))])
def torchvision(request, monkeypatch):
    """The transforms of torchvision: a stand-in, and where it can be imported torchvision itself."""
    if request.param == "stand-in":
        stand_in(monkeypatch)
    return request.param

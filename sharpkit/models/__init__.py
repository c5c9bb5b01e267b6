"""Models by name: functions `(shape of one input, classes) -> nn.Module`."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from sharpkit.models.cnn import cnn
from sharpkit.models.mlp import mlp

MODELS: dict[str, Callable[[tuple[int, ...], int], nn.Module]] = {"mlp": mlp, "cnn": cnn}

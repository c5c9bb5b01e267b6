"""A multilayer perceptron."""

from __future__ import annotations

from math import prod

from torch import nn


def mlp(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return two hidden layers of 256 rectified units, without normalisation.

    855,050 parameters for images of 3x32x32 and 10 classes.

    Args:
        shape: Of one input; it is flattened.
        classes: Outputs.
    """
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(prod(shape), 256),
        nn.ReLU(),
        nn.Linear(256, 256),
        nn.ReLU(),
        nn.Linear(256, classes),
    )

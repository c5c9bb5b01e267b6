"""Passes that leave no trace in the model or in the random streams."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import nn

from sharpkit.core import randomness
from sharpkit.core.buffers import Buffers


@contextmanager
def undisturbed(model: nn.Module, device: torch.device) -> Generator[None]:
    """Put buffers, gradients, every module's mode and the global random streams back at the end."""
    buffers, streams = Buffers.of(model), randomness.capture(device)
    modes = [(module, module.training) for module in model.modules()]
    grads = [(param, param.grad) for param in model.parameters()]
    try:
        yield
    finally:
        buffers.put_back()
        randomness.restore(streams, device)
        for module, training in modes:
            module.training = training
        for param, grad in grads:
            param.grad = grad

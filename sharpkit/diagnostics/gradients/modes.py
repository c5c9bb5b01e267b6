"""A model as diagnostics of gradients see it: the statistics that batch norm uses, dropout, and its type."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm  # pyright: ignore[reportPrivateUsage]

from sharpkit.diagnostics.casting import cast_model
from sharpkit.diagnostics.measured import measured
from sharpkit.diagnostics.problem import BnMode


@contextmanager
def in_mode(
    model: nn.Module, bn_mode: BnMode, *, dropout: bool = False, dtype: torch.dtype | None = None
) -> Generator[None]:
    """Put a model into a mode, and leave it and the random streams as they were at the end, as `measured` does.

    Args:
        model: Has parameters.
        bn_mode: `train` normalises with the statistics of every batch, as training does; `eval` with the stored ones.
        dropout: Whether everything but batch norm is in training mode.
        dtype: Compute in this type; None leaves the model's.
    """
    with measured(model), nullcontext() if dtype is None else cast_model(model, dtype):
        for module in model.modules():
            module.training = bn_mode == "train" if isinstance(module, BatchNorm) else dropout
        yield

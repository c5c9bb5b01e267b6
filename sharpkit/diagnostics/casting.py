"""Models and samples in another floating-point type."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sharpkit.core.task import Batch, map_tensors
from sharpkit.errors import InputError, one_line

_HALF = (torch.bfloat16, torch.float16)
"""Types in which sums of derivatives are too coarse to be of use."""

_OF_TYPES = ("dtype", "scalar type", "same type", "Expected object of type")
"""What torch's errors on types of tensors say."""


@contextmanager
def cast_model(model: nn.Module, dtype: torch.dtype) -> Generator[None]:
    """Give every parameter and buffer another type, and its own storage back at the end."""
    held = [(t, t.data) for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()]
    try:
        for tensor, data in held:
            tensor.data = data.to(dtype)
        yield
    finally:
        for tensor, data in held:
            tensor.data = data


def cast_batch(batch: Batch, dtype: torch.dtype) -> Batch:
    """Return a batch whose floating-point tensors are of another type."""
    cast: Callable[[Tensor], Tensor] = lambda t: t.to(dtype) if t.is_floating_point() else t  # noqa: E731
    return Batch(map_tensors(cast, batch.inputs), map_tensors(cast, batch.targets), batch.indices, parts=batch.parts)


def wider(model: nn.Module) -> tuple[torch.dtype | None, list[str]]:
    """Return the type that a model with weights in half precision is differentiated in, None for others, and a note."""
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
    half = [str(kind).removeprefix("torch.") for kind in _HALF if kind in kinds]
    if not half:
        return None, []
    dtype = torch.float64 if torch.float64 in kinds else torch.float32
    name = str(dtype).removeprefix("torch.")
    return dtype, [
        f"weights are stored in {' and '.join(half)}; derivatives are computed in {name}, at the same weights"
    ]


@contextmanager
def said_of_types(dtype: torch.dtype | None) -> Generator[None]:
    """Say in one line that a model cannot be computed in another type than its own, None for that one.

    Raises:
        InputError: If a function was given tensors of several types.
    """
    try:
        yield
    except RuntimeError as error:
        if dtype is None or not any(word in str(error) for word in _OF_TYPES):
            raise
        name = str(dtype).removeprefix("torch.")
        raise InputError(
            f"the model cannot be computed in {name}: {one_line(error)}",
            "take tensors of fixed types out of forward(), such as x.half()",
        ) from error

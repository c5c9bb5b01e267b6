"""Tensors of several types and shapes as one vector of bytes, to travel in one message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from sharpkit.core import vec
from sharpkit.core.vec import Vec

_ALIGNMENT = 64
_MOST_AXES = 16
_TYPES = (
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)
_ABSENT = -1

DESCRIPTION = 2 + _MOST_AXES
"""How many numbers describe a tensor."""


def room(like: Sequence[Tensor], device: torch.device) -> Tensor:
    """Return an unfilled message for tensors of the types, shapes and memory formats of others."""
    return torch.empty(sum(map(_padded, like)), dtype=torch.uint8, device=device)


def pack(tensors: Sequence[Tensor], like: Sequence[Tensor], device: torch.device) -> Tensor:
    """Return the message, (bytes,), that holds some tensors.

    Args:
        tensors: Copied.
        like: Of the same types and shapes, and of the memory formats that `unpack` is to give.
        device: Where the message is.
    """
    message = room(like, device)
    vec.copy_(unpack(message, like), tensors)
    return message


def unpack(message: Tensor, like: Sequence[Tensor]) -> Vec:
    """Return the tensors in a message as views of it, which its reader knows the types and shapes of."""
    pieces = cast("list[Tensor]", message.split([_padded(t) for t in like]))
    return [shaped(piece.view(t.dtype)[: t.numel()], t) for piece, t in zip(pieces, like, strict=True)]


def shaped(flat: Tensor, like: Tensor) -> Tensor:
    """Return a vector as a tensor of the shape, and where that is dense the memory format, of another."""
    if like.is_contiguous() or not _is_dense(like):
        return flat.view(like.shape)
    return flat.as_strided(like.shape, like.stride(), flat.storage_offset())


def describe(tensor: Tensor | None) -> list[int]:
    """Return type and shape of a tensor as so many numbers as `DESCRIPTION` says."""
    if tensor is None:
        return [_ABSENT] * DESCRIPTION
    shape = list(tensor.shape)
    return [_TYPES.index(tensor.dtype), len(shape), *shape, *[0] * (_MOST_AXES - len(shape))]


def described(numbers: Sequence[int]) -> Tensor | None:
    """Return a tensor without values of the type and shape that `describe` told."""
    if numbers[0] == _ABSENT:
        return None
    return torch.empty(list(numbers[2 : 2 + numbers[1]]), dtype=_TYPES[numbers[0]], device="meta")


def _padded(t: Tensor) -> int:
    return -(-t.numel() * t.element_size() // _ALIGNMENT) * _ALIGNMENT


def _is_dense(t: Tensor) -> bool:
    """Return whether every entry of the memory from the first to the last is one of the tensor's, once."""
    span = 1 + sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))
    return t.numel() > 0 and span == t.numel() and 0 not in t.stride()

"""Complex parameters as pairs of real numbers, which is what norms, inner products and rules of a step see.

The gradient of a real loss by w = x + iy is dL/dx + i dL/dy in torch, so that its pairs are the gradient by (x, y).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sharpkit.core.vec import Vec


def any_complex(v: Sequence[Tensor]) -> bool:
    """Return whether there is a complex tensor."""
    return any(t.is_complex() for t in v)


def as_real(v: Sequence[Tensor]) -> Vec:
    """Return views of complex tensors as real ones of shape (..., 2), and real tensors themselves."""
    with torch.no_grad():
        return [
            torch.view_as_real(t.resolve_conj()).requires_grad_(t.requires_grad) if t.is_complex() else t for t in v
        ]


def as_stored(v: Sequence[Tensor], params: Sequence[Tensor]) -> Vec:
    """Return what is aligned with `as_real(params)` aligned with the parameters themselves."""
    return [torch.view_as_complex(t.contiguous()) if p.is_complex() else t for t, p in zip(v, params, strict=True)]

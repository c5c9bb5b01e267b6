"""Whether a GPU may round the factors of float32 products to TF32, which has 10 bits of mantissa."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch


def set_tf32(wanted: bool) -> None:
    """Allow it or not; torch's own default allows it in convolutions and not in matrix products."""
    for kind in _kinds():
        kind.fp32_precision = "tf32" if wanted else "ieee"


@contextmanager
def without_tf32() -> Generator[None]:
    """Forbid it, and leave at the end what was set before."""
    kinds = _kinds()
    before = [kind.fp32_precision for kind in kinds]
    try:
        set_tf32(False)
        yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision


def _kinds() -> tuple[Any, ...]:
    backends: Any = torch.backends  # its annotations lack these
    return backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn

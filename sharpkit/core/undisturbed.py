"""Passes that leave no trace in the model or in the random streams."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import nn

from sharpkit.core import randomness
from sharpkit.core.snapshot import Snapshot


@contextmanager
def undisturbed(model: nn.Module, device: torch.device) -> Generator[Snapshot]:
    """Put the model and the global random streams back at the end, bit for bit, also after exceptions.

    See `Snapshot` for what that is of the model. The streams are those of torch on the CPU and on the device, of Python
    and of NumPy.
    """
    snapshot, streams = Snapshot(model), randomness.capture(device)

    def put_back() -> None:
        snapshot.put_back()
        randomness.restore(streams, device)

    try:
        yield snapshot
    finally:
        # A second Ctrl-C may arrive inside the first attempt, which can be repeated.
        try:
            put_back()
        except BaseException:
            put_back()
            raise

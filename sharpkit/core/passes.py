"""What is asked of a pass over a batch: which losses, by which parameters, in which role."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from sharpkit.core.task import Batch, Tree

Objective = Callable[[Tensor, Batch], Tensor]
"""`(outputs, batch) -> (B,)`: per-sample losses of outputs."""

AuxiliaryLoss = Callable[[Tensor, Tree], Tensor]
"""`(outputs, reference) -> (B,)`: what is added to the task's per-sample losses."""

Touched = bool | Tensor
"""Whether a parameter's gradient is wanted, or on which of its rows (r,): the slices along its first axis."""

Role = Literal["clean", "perturbed", "extra"]
"""Whether a pass is a step's clean or its perturbed one, which may update the model's buffers, or neither."""

BatchNormStatistics = Literal["clean", "perturbed", "both"]
"""The passes whose batch-norm statistics are kept; a step without a perturbed pass keeps those of its clean pass."""

ROLES: dict[BatchNormStatistics, frozenset[Role]] = {
    "clean": frozenset({"clean"}),
    "perturbed": frozenset({"perturbed"}),
    "both": frozenset({"clean", "perturbed"}),
}

Replay = Literal["same", "fresh"]
"""Whether a batch that is evaluated again draws the same random masks."""

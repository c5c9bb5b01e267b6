"""What a model and a loss return, refused in one line where it is not what a step needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor

from sharpkit.errors import UsageError


def check_outputs(outputs: object) -> None:
    """Refuse outputs that are not one tensor.

    Raises:
        UsageError: If so.
    """
    if isinstance(outputs, Tensor):
        return
    kind, member = type(outputs).__name__, ""
    if isinstance(outputs, Mapping):
        keys = [str(key) for key in cast("Mapping[Any, Any]", outputs)]
        kind, member = f"{kind} of {', '.join(keys)}", f", such as outputs[{keys[0]!r}]" if keys else ""
    elif isinstance(outputs, tuple | list):
        member = ", such as outputs[0]"
    raise UsageError(
        f"the task's outputs are {kind}, allowed is a tensor",
        f"give a Task whose outputs() returns the tensor that losses() needs, or a model that returns it{member}",
    )


def check_not_broadcast(outputs: Tensor, targets: object, losses: Tensor) -> None:
    """Refuse losses of every output with every target, as of (B, 1) outputs with (B,) targets.

    Raises:
        UsageError: If so.
    """
    if not isinstance(targets, Tensor) or losses.shape in (outputs.shape, targets.shape):
        return
    longer, shorter = sorted((outputs.shape, targets.shape), key=len, reverse=True)
    aligned = (1,) * (len(longer) - len(shorter)) + tuple(shorter)
    if tuple(losses.shape) == tuple(b if a == 1 else a for a, b in zip(longer, aligned, strict=True)):
        raise UsageError(
            f"the loss returned shape {tuple(losses.shape)}: outputs of shape {tuple(outputs.shape)} were compared "
            f"with targets of shape {tuple(targets.shape)}, each with all others",
            "give outputs and targets of one shape",
        )

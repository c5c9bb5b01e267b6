"""What is evaluated, what comes of it, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sharpkit.core.accumulated import Accumulated
from sharpkit.core.randomness import RandomState
from sharpkit.core.task import Batch
from sharpkit.core.vec import Vec
from sharpkit.errors import UsageError


@dataclass
class Closure:
    """A function that computes the mean loss, calls backward() and returns the loss.

    It may call backward() several times, whose gradients add up, and it may zero the gradients first. It counts as one
    sample, since nobody can see how many it holds; on several ranks they weigh alike.
    """

    function: Callable[[], Tensor | float]
    randomness: RandomState | None = None
    size: int = 1
    count: int = 1
    share: float = 1.0
    parts: Sequence[int] | None = None
    whole: int | None = None
    stands_for: float = 1.0
    accumulated: Accumulated = field(default_factory=Accumulated)

    def split(self, pieces: int) -> list[Closure]:
        """Return the closure itself; it cannot be cut.

        Raises:
            UsageError: If more than one piece is asked for.
        """
        if pieces > 1:
            raise UsageError(f"a closure cannot be cut into {pieces} shards", "call opt.step((inputs, targets))")
        return [self]


@dataclass(frozen=True)
class Evaluation:
    """What one forward pass, and the backward passes from it, gave."""

    loss: Tensor  # () mean task loss, detached
    losses: Tensor | None  # (B,) per-sample task losses, detached; None from a closure
    outputs: Tensor | None  # (B, ...) model outputs, detached; None from a closure
    grads: list[Vec] = field(default_factory=list[Vec])  # one a requested objective
    reached: Sequence[bool] = ()  # whether a backward pass reached each parameter; where not, its gradient is zero


Work = Batch | Closure


@dataclass
class Cost:
    """What has been computed, on all ranks together: samples, and gradients in units of a whole batch's."""

    forward: float = 0
    backward: float = 0
    gradients: float = 0.0

    def add(self, work: Work, gradients: int) -> None:
        """Count a forward pass and so many backward passes."""
        count = work.count * work.stands_for
        self.forward += count
        self.backward += count * gradients
        self.gradients += work.share * work.stands_for * gradients


def mean_loss(returned: object, device: torch.device) -> Tensor:
    """Return what a closure returned as a loss, (), detached, on a device.

    Raises:
        UsageError: If it is not one number.
    """
    if returned is None:
        raise UsageError("the closure returned None, allowed is the mean loss", "end it with return loss")
    if not isinstance(returned, Tensor | float | int):
        given = f"the closure returned {type(returned).__name__}"
    else:
        loss = torch.as_tensor(returned, device=device).detach()
        if loss.numel() == 1 and not loss.is_complex():
            return loss.reshape(())
        given = f"the closure returned a {loss.dtype} tensor of shape {tuple(loss.shape)}"
    raise UsageError(f"{given}, allowed is the mean loss, one real number", "end it with return loss")

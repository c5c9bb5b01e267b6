"""What is evaluated, what comes of it, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from sharpkit.core.randomness import RandomState
from sharpkit.core.task import Batch
from sharpkit.core.vec import Vec
from sharpkit.errors import UsageError


@dataclass
class Closure:
    """A function that zeroes the gradients, computes the mean loss, calls backward() and returns the loss.

    It counts as one sample, since nobody can see how many it holds; on several ranks they weigh alike.
    """

    function: Callable[[], Tensor | float]
    randomness: RandomState | None = None
    size: int = 1
    count: int = 1
    share: float = 1.0
    parts: Sequence[int] | None = None
    whole: int | None = None
    stands_for: float = 1.0

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

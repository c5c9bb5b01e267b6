"""The answers that several variants share; what only one variant needs lives in that variant's file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from sharpkit.core.point import Point
from sharpkit.core.rule import Rule
from sharpkit.core.slots import Ascent, Descent, Gate, Radius, Rows
from sharpkit.core.step import Step
from sharpkit.core.vec import Vec
from sharpkit.core.work import Work
from sharpkit.errors import UsageError, check_range


@dataclass(frozen=True)
class Always(Gate):
    """Perturb on every step (SAM: Foret et al. 2021, Algorithm 1)."""

    def perturbs(self, step: Step) -> bool:
        """Return True."""
        return True


@dataclass(frozen=True)
class Never(Gate):
    """Never perturb: empirical risk minimisation with the base optimizer."""

    never: ClassVar[bool] = True

    def perturbs(self, step: Step) -> bool:
        """Return False."""
        return False


@dataclass(frozen=True)
class Idle(Never):
    """Do not perturb, unless the rule is joined with one that does."""

    yields: ClassVar[bool] = True


@dataclass(frozen=True)
class Every(Gate):
    """Perturb when t mod k = 0 (LookSAM: Liu et al. 2022, Algorithm 1).

    Args:
        k: The interval in steps, 1 or more.
    """

    k: int

    def __post_init__(self) -> None:
        check_range("k", self.k, 1)

    def perturbs(self, step: Step) -> bool:
        """Return whether t mod k = 0."""
        return step.clock.step % self.k == 0


@dataclass(frozen=True)
class Bernoulli(Gate):
    """Perturb with probability p, drawn from the rule's own stream (SS-SAM: Zhao et al. 2022).

    Args:
        p: The probability, in [0, 1].
    """

    p: float

    def __post_init__(self) -> None:
        check_range("p", self.p, 0, 1)

    def perturbs(self, step: Step) -> bool:
        """Draw X ~ Bernoulli(p), before any forward pass."""
        return float(torch.rand((), generator=step.generator)) < self.p


@dataclass(frozen=True)
class Gradient(Ascent):
    """Climb the clean gradient at w: of the task's loss, g, or of the ascent loss that the rule states."""

    def direction(self, step: Step) -> Vec:
        """Return the gradient, with zeros where no mask leaves anything of it."""
        if step.wants_clean:
            return step.here.gradients(None, step.ascent_loss)[1]  # both from one forward pass
        if step.touched is None or all(flag is True for flag in step.touched):
            return step.here.gradients(step.ascent_loss)[0]
        return step.here.partial(step.ascent_loss, step.touched)


@dataclass(frozen=True)
class Constant(Radius):
    """The same radius on every step.

    Args:
        rho: The radius, 0 or more, in the units of the metric's norm.
    """

    rho: float

    def __post_init__(self) -> None:
        check_range("rho", self.rho, 0)

    def at(self, step: Step) -> float:
        """Return rho."""
        return self.rho


@dataclass(frozen=True)
class SameBatch(Rows):
    """The second gradient sees the batch that was climbed."""

    def select(self, step: Step, offset: Vec) -> Work:
        """Return this step's batch."""
        return step.work


@dataclass(frozen=True)
class Climbed(Descent):
    """Hand on the gradient at w + epsilon, and the clean gradient where the step does not perturb."""

    def perturbed(self, step: Step, there: Point) -> Vec:
        """Return h = grad L(B; w + epsilon)."""
        return there.grad

    def plain(self, step: Step) -> Vec:
        """Return g."""
        return step.here.grad


def completed(rule: Rule) -> Rule:
    """Return the rule with every slot that it leaves open answered as plain SAM does.

    Raises:
        UsageError: If its number of shards is less than one.
    """
    full = rule.complete(
        gate=Always(), ascent=Gradient(), radius=Constant(0.05), rows=SameBatch(), descent=Climbed(), shards=1
    )
    number_of_shards(full.shards or 0)
    return full


def number_of_shards(value: int) -> int:
    """Return the number of shards, refusing less than one."""
    if value < 1:
        raise UsageError(f"shards is {value}, allowed is 1 or more", "use 1 for the whole batch")
    return value

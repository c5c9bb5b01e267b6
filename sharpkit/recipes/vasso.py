"""Variance-suppressed sharpness-aware optimisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from sharpkit.core import vec
from sharpkit.core.parts import Constant
from sharpkit.core.rule import Rule
from sharpkit.core.slots import Filter, NewEntry
from sharpkit.core.step import Step
from sharpkit.core.vec import Vec
from sharpkit.errors import check_range

_SMOOTHED = "vasso.d"


@dataclass(frozen=True)
class Smoothed(Filter):
    """d_t = (1 - theta) d_{t-1} + theta v_t, with d_0 = v_0, also for a parameter that joins later.

    The shards of a batch share one average: each climbs what it makes of the last one, and the next is their mean.

    Args:
        theta: Weight of the new vector, in (0, 1].
    """

    theta: float
    clean_gradient: ClassVar[bool] = True
    aligned: ClassVar[Mapping[str, NewEntry | None]] = {_SMOOTHED: lambda _: None}

    def __post_init__(self) -> None:
        check_range("theta", self.theta, 0, 1, open_low=True)

    def apply(self, step: Step, direction: Vec) -> Vec:
        """Return d and remember it."""
        before = step.shared.kept(_SMOOTHED) or [None] * len(direction)
        started = [v if d is None else d for d, v in zip(before, direction, strict=True)]
        smoothed = vec.lerp(started, direction, self.theta)
        step.pool(_SMOOTHED, smoothed)
        return smoothed

    def pass_by(self, step: Step) -> None:
        """Take in the gradient of a step that does not perturb; without an ascent loss it has been computed anyway."""
        self.apply(step, step.here.gradients(step.ascent_loss)[0])


def vasso(rho: float = 0.2, theta: float = 0.9) -> Rule:
    """Climb a moving average of the gradients: epsilon = rho d / ||d|| with d = (1 - theta) d + theta g.

    Li and Giannakis (2023), "Enhancing Sharpness-Aware Optimization Through Variance Suppression", eq. (5) and
    Algorithm 1. theta weights the new gradient, and the average starts at the first one. Steps that a gate leaves
    unperturbed still feed it. The official code updates batch-norm statistics in both passes; we in the clean one.
    Cost: 2 gradients a step.

    Args:
        rho: Radius, Euclidean norm over all parameters jointly; 0.2 for a WRN-28-10 on CIFAR-100.
        theta: Weight of the new gradient, in (0, 1]; 1 is SAM.

    Raises:
        UsageError: If rho is negative or theta outside (0, 1].
    """
    return Rule("vasso", filter=Smoothed(theta), radius=Constant(rho))

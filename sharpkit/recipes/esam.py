"""Efficient sharpness-aware minimisation: fewer tensors climb, fewer samples descend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from sharpkit.core import vec
from sharpkit.core.parts import Constant
from sharpkit.core.rule import Rule
from sharpkit.core.slots import Mask, Need, Rows
from sharpkit.core.step import Step
from sharpkit.core.vec import Vec
from sharpkit.core.work import Work
from sharpkit.errors import check_range


def _kept(step: Step, beta: float) -> list[bool]:
    """Keep every tensor with probability beta; one draw a step, before any pass."""
    if beta == 1:
        return [True] * len(step.params)

    def draw() -> list[bool]:
        return [float(x) < beta for x in torch.rand(len(step.params), generator=step.generator)]

    return step.once("esam.kept", draw)


@dataclass(frozen=True)
class KeptTensors(Mask):
    """Stochastic weight perturbation: perturb a random set S of tensors, and take the norm over S.

    Args:
        beta: Probability that a tensor is kept, in (0, 1].
    """

    beta: float
    inside: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({"whole_batch"})  # one draw a step, not one a shard

    def __post_init__(self) -> None:
        check_range("beta", self.beta, 0, 1, open_low=True)

    def apply(self, step: Step, v: Vec) -> Vec:
        """Return v with zeros outside S."""
        return [t if k else torch.zeros_like(t) for t, k in zip(v, _kept(step, self.beta), strict=True)]

    def touched(self, step: Step) -> list[bool]:
        """Return S."""
        return _kept(step, self.beta)


@dataclass(frozen=True)
class Enlarged(Mask):
    """Enlarge what is left by 1 / beta, whichever tensors were drawn, all of them included.

    Args:
        beta: Probability that a tensor is kept.
    """

    beta: float

    def apply(self, step: Step, v: Vec) -> Vec:
        """Return v / beta."""
        return v if self.beta == 1 else vec.scale(v, 1 / self.beta)


@dataclass(frozen=True)
class SharpestSamples(Rows):
    """Sharpness-sensitive data selection: the samples whose loss rises most from w to w + epsilon.

    Args:
        gamma: Fraction of the batch that is kept, in (0, 1].
    """

    gamma: float
    needs: ClassVar[frozenset[Need]] = frozenset({"batch", "whole_batch"})

    def __post_init__(self) -> None:
        check_range("gamma", self.gamma, 0, 1, open_low=True)

    def select(self, step: Step, offset: Vec) -> Work:
        """Return the floor(gamma b) samples, at least one, of the largest rise; ties by position."""
        batch = step.batch()
        count = max(1, int(self.gamma * batch.count))
        if count == batch.count:
            return batch
        rise = step.gathered(step.at(offset, extra=True).forward().losses - step.here.losses)
        order = torch.sort(rise, descending=True, stable=True).indices
        return step.selected(order[:count].sort().values)


def esam(rho: float = 0.05, beta: float = 0.6, gamma: float = 0.5) -> Rule:
    """Climb on a random set of tensors, and descend on the samples whose loss rises most from w to w + epsilon.

    epsilon = (1 / beta) rho g_S / ||g_S|| on the tensors S, each kept with probability beta; u = grad L(D; w + epsilon)
    with D the floor(gamma b) samples of the largest rise. Du et al. (2022), "Efficient Sharpness-aware Minimization
    for Improved Training of Neural Networks", Algorithm 1. As in the official code, the factor is 1 / beta also where S
    is all tensors, so that the perturbation is rho / beta long unless S is empty. The weight gradients outside S are
    not computed. Unlike the official code, S is drawn before the step, ties keep exactly floor(gamma b) samples, and
    batch-norm statistics change in the clean pass only. Cost: 1 + gamma gradients and a forward pass a step.

    Args:
        rho: Radius, Euclidean norm over the perturbed tensors, before it is divided by beta.
        beta: Probability that a tensor is perturbed, in (0, 1].
        gamma: Fraction of the batch that descends, in (0, 1]; with beta = gamma = 1 it is SAM.

    Raises:
        UsageError: If rho is negative, or beta or gamma outside (0, 1].
    """
    return Rule("esam", masks=(KeptTensors(beta), Enlarged(beta)), radius=Constant(rho), rows=SharpestSamples(gamma))

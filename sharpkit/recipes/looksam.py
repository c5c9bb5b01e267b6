"""SAM on every k-th step, and the direction that it found on the steps between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sharpkit.core import vec
from sharpkit.core.parts import Constant, Every
from sharpkit.core.point import Point
from sharpkit.core.rule import Rule
from sharpkit.core.shape import TINY
from sharpkit.core.slots import Descent, NewEntry
from sharpkit.core.step import Step
from sharpkit.core.vec import Vec
from sharpkit.errors import check_range

_FLAT = "looksam.v"
_AGE = "looksam.age"

Scope = Literal["global", "tensor"]


@dataclass(frozen=True)
class Reused(Descent):
    """u = h and v = h - (<g, h> / ||g||^2) g on a step that perturbs; else u = g + alpha (||g|| / ||v||) v.

    Args:
        alpha: Weight of the reused direction, 0 or more.
        scope: Whether products and norms are taken over all tensors jointly (`global`) or one by one (`tensor`).
    """

    alpha: float
    scope: Scope = "global"
    clean_gradient: ClassVar[bool] = True
    aligned: ClassVar[Mapping[str, NewEntry | None]] = {_FLAT: torch.zeros_like}

    def __post_init__(self) -> None:
        check_range("alpha", self.alpha, 0)

    def perturbed(self, step: Step, there: Point) -> Vec:
        """Return h and remember its part that is orthogonal to g."""
        pairs = [self._orthogonal(g, h) for g, h in zip(*self._grouped(step.here.grad, there.grad), strict=True)]
        step.memory[_FLAT] = [t for part in pairs for t in part]
        step.memory[_AGE] = 0
        return there.grad

    def plain(self, step: Step) -> Vec:
        """Return g with the remembered direction added, or g where there is none or it is zero."""
        g, v = step.here.grad, step.memory.get(_FLAT)
        if v is None:
            return g
        step.memory[_AGE] = step.memory[_AGE] + 1
        step.note("age_of_v", torch.tensor(float(step.memory[_AGE])))
        return [t for a, b in zip(*self._grouped(g, v), strict=True) for t in self._added(a, b)]

    def _grouped(self, *vectors: Vec) -> list[list[Vec]]:
        return [[v] if self.scope == "global" else [[t] for t in v] for v in vectors]

    def _orthogonal(self, g: Vec, h: Vec) -> Vec:
        """Return h less its projection onto g; exact zeros where only rounding is left, which would be blown up."""
        v = vec.add(h, vec.scale(g, vec.projection(h, g)), alpha=-1)
        rounding = 10 * torch.finfo(vec.accumulation_dtype(h)).eps
        return vec.keep_if(vec.norm(v) > rounding * vec.norm(h), v)

    def _added(self, g: Vec, v: Vec) -> Vec:
        length = vec.norm(v)
        ratio = self.alpha * vec.norm(g) / length
        weight: Tensor = torch.where(length < TINY, 0.0, ratio)
        return vec.add(g, vec.scale(v, weight))


def looksam(rho: float = 0.1, k: int = 5, alpha: float = 0.7, scope: Scope = "global") -> Rule:
    """Perturb on every k-th step; between, add the last step's direction: u = g + alpha (||g|| / ||v||) v.

    v = h - (<g, h> / ||g||^2) g is the part of the perturbed gradient that is orthogonal to the clean one, which
    changes slowly. Liu, Mai, Chen, Hsieh, You (2022), "Towards Efficient and Scalable Sharpness-Aware Minimization",
    eqs. (5)-(6) and Algorithm 1. There is no official code; common ports work tensor by tensor (`scope=tensor`) and
    divide by a norm that may be zero, where we hand on g. Cost: 1 + 1/k gradients a step.

    Args:
        rho: Radius, Euclidean norm over all parameters jointly.
        k: Steps from one perturbation to the next; 1 is SAM.
        alpha: Weight of the reused direction; the paper tries 0.3 to 0.9.
        scope: Norms and products over all parameters jointly, `global`, or `tensor` by tensor.

    Raises:
        UsageError: If rho or alpha is negative or k below 1.
    """
    return Rule("looksam", gate=Every(k), radius=Constant(rho), descent=Reused(alpha, scope))

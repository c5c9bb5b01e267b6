"""SAM parallelised: two independent gradients a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import ClassVar

import torch

from sharpkit.core import vec
from sharpkit.core.ahead import LookAhead
from sharpkit.core.memory import Drawer
from sharpkit.core.parts import Constant
from sharpkit.core.point import Point
from sharpkit.core.rule import Rule
from sharpkit.core.slots import Ascent, Descent, Gate, Need, NewEntry, Rows
from sharpkit.core.step import Step
from sharpkit.core.task import Batch
from sharpkit.core.vec import Vec
from sharpkit.core.work import Work
from sharpkit.errors import check_range

_GRADIENT = "sampa.q"
_CLIMBED = "sampa.climbed"
_REACHED = "sampa.reached"
_BATCH = "sampa.batch"
_SHARES = "sampa.shares"
_MEAN = "sampa.mean"


@dataclass(frozen=True)
class AfterFirst(Gate):
    """Perturb on every step for which the step before has left a gradient and a batch."""

    def perturbs(self, step: Step) -> bool:
        """Return whether q is there, for as many shards as this batch has."""
        return len(step.shared.kept(_SHARES) or ()) == len(step.shares)


@dataclass(frozen=True)
class LookAheadGradient(Ascent):
    """Climb q_t = grad L(B_{t-1}; y_t), or the gradient of the ascent loss there, computed in the step before."""

    needs: ClassVar[frozenset[Need]] = frozenset({"past"})

    def direction(self, step: Step) -> Vec:
        """Return what is climbed."""
        return step.memory[_GRADIENT if step.ascent_loss is None else _CLIMBED]

    def known(self, memory: Drawer) -> tuple[Vec, Work] | None:
        """Return q and its batch."""
        return (memory[_GRADIENT], Batch.unpack(memory[_BATCH])) if _GRADIENT in memory else None


@dataclass(frozen=True)
class PreviousBatch(Rows):
    """The perturbed gradient sees the batch of the step before, whose gradient was climbed."""

    def select(self, step: Step, offset: Vec) -> Work:
        """Return B_{t-1}, with the random masks of its first evaluation."""
        return Batch.unpack(step.memory[_BATCH])


@dataclass(frozen=True)
class Optimistic(Descent):
    """u = (1 - lam) h_t + lam q_{t+1}, with q_{t+1} = grad L(B_t; y_{t+1}) evaluated beside h_t.

    Args:
        lam: Weight of the look-ahead gradient, in [0, 1].
        y_step: Where y_{t+1} is: the base optimizer's own next step along q (`peek`), or w - lr q (`plain`).
    """

    lam: float
    y_step: LookAhead
    needs: ClassVar[frozenset[Need]] = frozenset({"batch"})
    independent: ClassVar[bool] = True
    aligned: ClassVar[Mapping[str, NewEntry | None]] = {
        **dict.fromkeys((_GRADIENT, _CLIMBED, _MEAN), torch.zeros_like),
        _REACHED: lambda _: False,  # it is not displaced, and the look-ahead leaves it where it is
    }

    def __post_init__(self) -> None:
        check_range("lam", self.lam, 0, 1)

    def perturbed(self, step: Step, there: Point) -> Vec:
        """Evaluate h and the next q, store q and the batch, and return their combination.

        With shards, y is one for all, along the mean of their q, and h has the weight of the shard that it is of.
        """
        shares = step.shared.kept(_SHARES)
        mean = step.memory[_GRADIENT] if len(shares) == 1 else step.shared.kept(_MEAN)
        ahead = step.look_ahead(mean, self.y_step, step.memory[_REACHED])
        y = step.at(ahead, clean=True)
        step.together((there, (None,)), (y, (None, step.ascent_loss)))
        step.note("cosine", vec.cosine(step.memory[_GRADIENT], there.grad))
        self._remember(step, y, y.grad)
        weight = shares[step.shard] / step.shares[step.shard]
        h = there.grad if weight == 1 else vec.scale(there.grad, weight)
        return vec.lerp(h, y.grad, self.lam) if self.lam else h

    def plain(self, step: Step) -> Vec:
        """Take the very first step with q_1 = grad L(B_0; w_0)."""
        step.together((step.here, (None, step.ascent_loss)))
        q = step.here.grad
        self._remember(step, step.here, vec.clone(q))
        return q

    def _remember(self, step: Step, point: Point, q: Vec) -> None:
        # A q that is not finite would make y, hence every later q, not finite; zero is one step without perturbation.
        finite = vec.norm(q) < inf
        step.tally("nonfinite_norm", ~finite)
        step.memory[_GRADIENT] = vec.keep_if(finite, q)
        if step.ascent_loss is not None:
            step.memory[_CLIMBED] = point.gradients(step.ascent_loss)[0]
        step.memory[_REACHED] = list(point.reached)
        step.memory[_BATCH] = step.batch().pack()
        step.shared[_SHARES] = list(step.shares)
        if len(step.shares) > 1:
            step.pool(_MEAN, step.memory[_GRADIENT])


def sampa(rho: float = 0.1, lam: float = 0.2, y_step: LookAhead = "peek") -> Rule:
    """Climb a gradient of the step before, so that both gradients of a step can run at once.

    y_{t+1} = the base optimizer's step from w_t along q_t; h_t = grad L(B_{t-1}; w_t + rho q_t / ||q_t||);
    q_{t+1} = grad L(B_t; y_{t+1}); u = (1 - lam) h_t + lam q_{t+1}. The first step is the base optimizer's own.

    Xie, Pethick, Cevher (2024), "SAMPa: Sharpness-aware Minimization Parallelized", Algorithm 1. We pass q on
    explicitly, where the official script recovers it by a subtraction that loses it at lam = 0; batch-norm statistics
    come from the pass at y; and y follows any base optimizer, Nesterov momentum included. Cost: 2 gradients a step,
    which do not depend on each other: 1 sequential gradient with two devices, 2 with one.

    Args:
        rho: Radius, Euclidean norm over all parameters jointly.
        lam: Weight of the look-ahead gradient, in [0, 1]; 0 is SAMPa-0, 0.2 the paper's choice for vision.
        y_step: `peek` looks ahead with the base optimizer's momentum and weight decay, `plain` with w - lr q.

    Raises:
        UsageError: If rho is negative or lam outside [0, 1].
    """
    return Rule(
        "sampa",
        gate=AfterFirst(),
        ascent=LookAheadGradient(),
        rows=PreviousBatch(),
        descent=Optimistic(lam, y_step),
        radius=Constant(rho),
    )

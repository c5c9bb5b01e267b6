"""The oracle at a point near the current weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from sharpkit.core import vec
from sharpkit.core.comm import Comm
from sharpkit.core.oracle import Oracle
from sharpkit.core.passes import Objective, Role, Touched
from sharpkit.core.vec import Vec
from sharpkit.core.work import Evaluation, Work
from sharpkit.errors import UsageError

T = TypeVar("T")


def restored(params: Sequence[Tensor], work: Callable[[Vec], T]) -> T:
    """Run `work` on a copy of w and put w back bit for bit, whatever happens.

    Weights are copied back, not subtracted back: adding and subtracting drifts (2.6e-3 relative after 200 steps in
    bfloat16), and it would make replicas with different offsets diverge.

    Args:
        params: The parameters; the set that is saved is the set that is put back.
        work: Called with the saved copy; may change the parameters in place.
    """
    saved = vec.clone(params)
    try:
        return work(saved)
    finally:
        # A second Ctrl-C may arrive inside the first attempt; the copy can be repeated.
        try:
            _put_back(params, saved)
        except BaseException:
            _put_back(params, saved)
            raise


def displaced(params: Sequence[Tensor], offset: Vec | None, work: Callable[[], T]) -> T:
    """Run `work` with the parameters at w + offset (None: at w), and put w back bit for bit."""
    if offset is None:
        return work()

    def run(_: Vec) -> T:
        with torch.no_grad():
            vec.add_(params, offset)
        return work()

    return restored(params, run)


def swapped(params: Sequence[Tensor], moved: Vec | None, work: Callable[[], T]) -> T:
    """Run `work` with the parameters' data in other tensors (None: in their own), and give them their own back.

    Kernels that run after this has returned still see the other tensors, which must live until then.
    """
    if moved is None:
        return work()
    own = [p.data for p in params]
    try:
        _point_to(params, moved)
        return work()
    finally:
        try:
            _point_to(params, own)
        except BaseException:
            _point_to(params, own)
            raise


def _point_to(params: Sequence[Tensor], data: Vec) -> None:
    for p, t in zip(params, data, strict=True):
        p.data = t


def _put_back(params: Sequence[Tensor], saved: Vec) -> None:
    with torch.no_grad():
        vec.copy_(params, saved)


class Point:
    """Loss and gradient of one batch at w + offset, computed when first asked for and then remembered.

    Args:
        oracle: Evaluates at the current weights.
        params: The parameters that `offset` is added to.
        offset: Aligned with `params`, or None for w itself.
        work: The batch or closure.
        role: Whether this is the step's clean pass, its perturbed one, or neither.
    """

    def __init__(
        self,
        oracle: Oracle,
        params: Sequence[Tensor],
        offset: Vec | None,
        work: Work,
        role: Role,
    ) -> None:
        self._oracle = oracle
        self._params = params
        self.offset = offset
        self.work = work
        self._role: Role = role
        self._evaluation: Evaluation | None = None
        self._grads: dict[Objective | None, Vec] = {}

    @property
    def evaluated(self) -> bool:
        """Whether anybody has asked."""
        return self._evaluation is not None

    def forward(self) -> Point:
        """Evaluate the loss alone, without a gradient, and return the point."""
        if self._evaluation is None:
            self.fill((), self.evaluate(()))
        return self

    def gradients(self, *objectives: Objective | None) -> tuple[Vec, ...]:
        """Return the gradients of the mean of per-sample objectives, all new ones from one forward pass.

        Args:
            objectives: `(outputs, batch) -> (B,)`; None is the task's own loss.
        """
        if missing := self.missing(objectives):
            self.fill(missing, self.evaluate(missing))
        return tuple(self._grads[o] for o in objectives)

    def missing(self, objectives: Iterable[Objective | None]) -> list[Objective | None]:
        """Return the objectives, each once, whose gradients are not known yet."""
        return [o for o in dict.fromkeys(objectives) if o not in self._grads]

    def fill(self, objectives: Sequence[Objective | None], evaluation: Evaluation) -> None:
        """Remember what was computed here, wherever that was."""
        self._evaluation = self._evaluation or evaluation
        self._grads.update(zip(objectives, evaluation.grads, strict=True))

    @property
    def role(self) -> Role:
        """That of the next evaluation here; a second forward pass must not move buffers twice."""
        return "extra" if self.evaluated else self._role

    def evaluate(self, objectives: Sequence[Objective | None], only: Sequence[Touched] | None = None) -> Evaluation:
        """Evaluate once more; `fill` is what remembers it."""
        role = self.role
        return displaced(self._params, self.offset, lambda: self._oracle.evaluate(self.work, role, objectives, only))

    def partial(self, objective: Objective | None, only: Sequence[Touched]) -> Vec:
        """Return the gradient by some parameters or rows, zeros for the others, whose gradients are not computed.

        It is not remembered: who asks for the whole gradient later pays for it.
        """
        if objective in self._grads:
            return self._grads[objective]
        evaluation = self.evaluate([objective], only)
        self._evaluation = self._evaluation or evaluation
        return evaluation.grads[0]

    @property
    def grad(self) -> Vec:
        """The gradient of the mean loss, aligned with the parameters; not to be changed in place."""
        return self.gradients(None)[0]

    @property
    def loss(self) -> Tensor:
        """The mean task loss, (), detached."""
        return self._seen().loss

    @property
    def losses(self) -> Tensor:
        """The per-sample task losses, (B,), detached.

        Raises:
            UsageError: If the step was given a closure.
        """
        losses = self._seen().losses
        if losses is None:
            raise UsageError("a closure gives no per-sample losses", "call opt.step((inputs, targets))")
        return losses

    @property
    def outputs(self) -> Tensor | None:
        """The model's outputs, (B, ...), detached; None from a closure."""
        return self._seen().outputs

    @property
    def reached(self) -> Sequence[bool]:
        """Whether the gradient reached each parameter; where not, it is zero and the parameter took no part."""
        return self._seen().reached

    def _seen(self) -> Evaluation:
        if self._evaluation is None:
            self.gradients(None)
        assert self._evaluation is not None
        return self._evaluation


class Joint(Point):
    """The points of the shards of a batch as one point of the batch.

    Args:
        points: One for every shard that is here.
        shares: Each one's part of the batch.
        across: The ranks that further shards are on.
    """

    def __init__(self, points: Sequence[Point], shares: Sequence[float], across: Comm) -> None:
        self._points = list(points)
        self._shares = list(shares)
        self._across = across
        self._means: dict[Objective | None, Vec] = {}

    @property
    def evaluated(self) -> bool:
        """Whether every shard's point has been evaluated."""
        return all(point.evaluated for point in self._points)

    def forward(self) -> Point:
        """Evaluate every shard's loss."""
        for point in self._points:
            point.forward()
        return self

    def gradients(self, *objectives: Objective | None) -> tuple[Vec, ...]:
        """Return the means of the shards' gradients, each with its share."""
        missing = [o for o in dict.fromkeys(objectives) if o not in self._means]
        if missing:
            every = [point.gradients(*missing) for point in self._points]
            means = [vec.weighted_sum(list(grads), self._shares) for grads in zip(*every, strict=True)]
            self._across.sum_([t for mean in means for t in mean])
            self._means.update(zip(missing, means, strict=True))
        return tuple(self._means[o] for o in objectives)

    def partial(self, objective: Objective | None, only: Sequence[Touched]) -> Vec:
        """Return the mean of the shards' partial gradients."""
        mean = vec.weighted_sum([point.partial(objective, only) for point in self._points], self._shares)
        self._across.sum_(mean)
        return mean

    @property
    def loss(self) -> Tensor:
        """The mean task loss of the batch, ()."""
        mean = torch.stack([p.loss * share for p, share in zip(self._points, self._shares, strict=True)]).sum()
        self._across.sum_([mean])
        return mean

    @property
    def losses(self) -> Tensor:
        """The per-sample task losses of the shards that are here, (B,)."""
        return torch.cat([point.losses for point in self._points])

    @property
    def outputs(self) -> Tensor | None:
        """The model's outputs on the shards that are here, (B, ...); None from a closure."""
        seen = [out for point in self._points if (out := point.outputs) is not None]
        return torch.cat(seen) if len(seen) == len(self._points) else None

    @property
    def reached(self) -> Sequence[bool]:
        """Whether a gradient of any shard reached each parameter."""
        return [any(flags) for flags in zip(*(point.reached for point in self._points), strict=True)]

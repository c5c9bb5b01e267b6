"""Products of curvature matrices with a vector by differences of first derivatives, in double precision where possible.

In float64 the differences are so short that a network with kinks, as ReLU has, is smooth between the points: with steps
of 1e-8 they agree with exact products to 1e-5. In float32 steps are longer, and products of such networks are off by
10 % and more at any of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sharpkit.core import vec
from sharpkit.core.buffers import Buffers
from sharpkit.core.point import swapped
from sharpkit.core.task import Batch
from sharpkit.diagnostics import memory, reductions
from sharpkit.diagnostics.problem import Problem
from sharpkit.errors import UsageError

T = TypeVar("T")

_FEW = 4
"""Samples that tell whether a model can be computed in double precision."""

_COPIES = 4
"""Vectors in double precision that there must be room for, beside the weights."""


@dataclass(frozen=True)
class Precision:
    """How differences are computed.

    Args:
        dtype: Of weights and samples.
        eps: The relative rounding of what is computed; coarser than that of `dtype` where a model narrows on the way.
    """

    dtype: torch.dtype
    eps: float

    @property
    def steps(self) -> tuple[float, ...]:
        """Steps relative to 1 + |w|, the best first: short where rounding allows it, for kinks; else for smoothness."""
        fine = self.eps < 1e-10
        best = self.eps ** (1 / 2 if fine else 1 / 3)
        return (best, best / 20, best * 20, best * 400) if fine else (best, best / 5, best * 4)

    @property
    def name(self) -> str:
        """The name of the type, without that of the library."""
        return str(self.dtype).removeprefix("torch.")


def finest(problem: Problem) -> Precision:
    """Return double precision where the model can be computed in it and there is room, else the model's own type."""
    own = Precision(problem.dtype, torch.finfo(problem.dtype).eps)
    narrowing = _Narrowing()
    first = problem.batches[0]
    few = first if problem.bn_mode == "train" else first.select_range(0, min(_FEW, first.size))
    if problem.dtype != torch.float64 and memory.available(problem.device) < 8 * _COPIES * problem.size:
        return own
    passes = replace(problem.passes)
    try:
        one = replace(problem, batches=(few,))
        with Buffers.of(problem.model).lent(), one.cast(torch.float64) as double, torch.enable_grad(), narrowing:
            losses = double.losses(double.batches[0])
    except (RuntimeError, NotImplementedError, TypeError):  # tensors of fixed types, or a device without the type
        return own
    finally:
        problem.passes.forward, problem.passes.backward = passes.forward, passes.backward
    narrowest = max((torch.finfo(t).eps for t in (losses.dtype, *narrowing.types)), default=0.0)
    return Precision(torch.float64, narrowest) if problem.dtype == torch.float64 or narrowest < 1e-10 else own


class _Narrowing(TorchDispatchMode):
    """Notes the types that what depends on the weights is rounded to in a pass in double precision."""

    def __init__(self) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self.types: set[torch.dtype] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Answer no: keeping the compiler out of this class would import it, which takes seconds."""
        return False

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        """Note a conversion, and run the operation."""
        to = (kwargs or {}).get("dtype")
        source = args[0] if args else None
        if (
            isinstance(source, Tensor)
            and source.dtype == torch.float64
            and source.requires_grad
            and isinstance(to, torch.dtype)
            and to.is_floating_point
        ):
            self.types.add(to)
        return func(*args, **(kwargs or {}))


class GradientDifference:
    """H v = (g(w + h v) - g(w - h v)) / 2h, with an error of order h^2 and of rounding / h.

    The error is estimated at the first product, by halving h. In float32 it is large where the loss has kinks.

    Args:
        problem: What is differentiated.

    Raises:
        UsageError: If batch norm is in training mode.
    """

    def __init__(self, problem: Problem) -> None:
        if problem.bn_mode == "train":
            raise UsageError("hvp is fd and bn-mode is train, allowed is eval", "use --bn-mode eval")
        self.error = math.nan
        self.precision = finest(problem)
        self._problem = problem
        self._step = self.precision.steps[0] * (1 + _size(problem.params))

    @property
    def how(self) -> str:
        """How products are made, in words."""
        return f"finite differences in {self.precision.name}, relative error about {self.error:.1e}"

    def product(self, vector: Tensor) -> Tensor:
        """Return H v, (P,), of a vector (P,)."""
        length = float(reductions.norm(vector))
        if length == 0:
            return torch.zeros_like(vector)
        step = self._step / length
        with self._problem.cast(self.precision.dtype) as problem:
            direction = vector.to(self.precision.dtype)
            result = _difference(problem, direction, step)
            if math.isnan(self.error):
                finer = _difference(problem, direction, step / 2)
                self.error = float(reductions.norm(finer - result) / reductions.norm(finer).clamp_min(1e-300))
        return result.to(vector)


def _difference(problem: Problem, vector: Tensor, step: float) -> Tensor:
    def gradient(amount: float) -> Tensor:
        return moved(problem.params, vec.unflatten(vector * amount, problem.params), problem.gradient)

    return gradient(step).sub_(gradient(-step)).div_(2 * step)


def moved(params: Sequence[Tensor], offset: Sequence[Tensor], work: Callable[[], T]) -> T:
    """Run `work` at w + offset. The parameters are lent other memory, so that graphs built at w stay valid."""
    return swapped(params, vec.add([p.detach() for p in params], offset), work)


def _size(params: Sequence[Tensor]) -> float:
    return float(reductions.norm(vec.flatten(params)))


class Reference(NamedTuple):
    """A product by differences.

    Args:
        image: A v, (P,).
        noise: The norm of what rounding may have added to it.
        slope: <gradient, v> from the gradient and from losses, and the rounding of the latter; or zeros.
    """

    image: Tensor
    noise: float
    slope: tuple[float, float, float]


def reference(problem: Problem, kind: str, vector: Tensor, step: float, eps: float) -> Reference:
    """Return A v of a unit vector v (P,) from first derivatives at w + h v and w - h v alone.

    The Hessian's is the difference of gradients. Gauss-Newton's is J^T of the difference of the losses' slopes by the
    outputs, and the difference of their slopes by the weights. Fisher's is 1/N sum_i g_i of the difference of l_i.

    Args:
        problem: In the type that differences are computed in; all of its samples are on this rank.
        kind: The matrix.
        vector: v.
        step: h, relative to 1 + |w|.
        eps: The relative rounding of what is computed.
    """
    h = step * (1 + _size(problem.params))
    offset = vec.unflatten(vector * h, problem.params)
    around = [moved(problem.params, o, lambda: _KINDS[kind](problem)) for o in (offset, vec.scale(offset, -1.0))]
    (high, up), (low, down) = around
    change = [(a - b) / (2 * h) for a, b in zip(high, low, strict=True)]
    image = _PULL[kind](problem, change)
    noise = eps * float(reductions.norm(high[-1].flatten())) / h
    if kind != "hessian":
        return Reference(image, noise, (0.0, 0.0, 0.0))
    exact = float(reductions.dot((high[0] + low[0]) / 2, vector))
    return Reference(image, noise, (exact, (up - down) / (2 * h), eps * max(abs(up), abs(down)) / h))


Around = tuple[list[Tensor], float]
"""What is subtracted, the last the gradient by the weights if there is one, and L."""


def _gradients(problem: Problem) -> Around:
    total, value = torch.zeros(problem.size, dtype=problem.dtype, device=problem.device), 0.0
    for batch in problem.batches:
        loss = problem.losses(batch).sum() / problem.samples
        total += _by(problem, loss)
        value += float(loss.detach())
        problem.passes.backward += batch.size
    return [total], value


def _slopes(problem: Problem) -> Around:
    """Return the slopes of the losses by the outputs of every batch, and by the weights where outputs stay."""
    found: list[Tensor] = []
    direct = torch.zeros(problem.size, dtype=problem.dtype, device=problem.device)
    for batch in problem.batches:
        seen = problem.outputs(batch).detach().requires_grad_()
        loss = problem.task.losses(seen, batch).sum() / problem.samples
        grads = torch.autograd.grad(loss, [seen, *problem.params], allow_unused=True, materialize_grads=True)
        found.append(grads[0])
        direct += vec.flatten(grads[1:])
    return [*found, direct], 0.0


def _each(problem: Problem) -> Around:
    with torch.no_grad():
        return [problem.losses(batch) for batch in problem.batches], 0.0


def _pulled(problem: Problem, results: Iterator[Tensor], change: Sequence[Tensor]) -> Tensor:
    total = torch.zeros(problem.size, dtype=problem.dtype, device=problem.device)
    for result, weights, batch in zip(results, change, problem.batches, strict=False):
        total += _by(problem, (result * weights).sum())
        problem.passes.backward += batch.size
    return total


def _by(problem: Problem, scalar: Tensor) -> Tensor:
    if not scalar.requires_grad:
        return torch.zeros(problem.size, dtype=problem.dtype, device=problem.device)
    return vec.flatten(torch.autograd.grad(scalar, list(problem.params), allow_unused=True, materialize_grads=True))


_KINDS: dict[str, Callable[[Problem], Around]] = {"hessian": _gradients, "ggn": _slopes, "fisher": _each}

_PULL: dict[str, Callable[[Problem, Sequence[Tensor]], Tensor]] = {
    "hessian": lambda problem, change: change[0],
    "ggn": lambda problem, change: _pulled(problem, map(problem.outputs, problem.batches), change) + change[-1],
    "fisher": lambda problem, change: _pulled(problem, map(problem.losses, problem.batches), change) / problem.samples,
}


@contextmanager
def as_it_is(problem: Problem, dtype: torch.dtype) -> Generator[Problem]:
    """Give a problem in a type, with nothing folded or substituted.

    Buffers are lent other memory, so that graphs built before stay valid.
    """
    plain, lent = problem.folding.suspended(), Buffers.of(problem.model).lent()
    with plain, problem.substitutes.suspended(), lent, problem.cast(dtype) as cast:
        yield cast


def some(problem: Problem, samples: int, pieces: int) -> tuple[Batch, ...]:
    """Return about so many samples from batches all over the data; whole ones if batch norm is in training mode."""
    if problem.bn_mode == "train":
        return problem.batches[:1]
    count = min(pieces, len(problem.batches))
    chosen = [problem.batches[i * len(problem.batches) // count] for i in range(count)]
    each = max(1, samples // count)
    return tuple(batch.select_range(0, min(each, batch.size)) for batch in chosen)

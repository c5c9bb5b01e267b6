"""Graphs of autograd that give products of curvature matrices with vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sharpkit.core.task import Batch
from sharpkit.diagnostics.problem import Problem

Graph = Callable[[Sequence[Tensor], bool], Sequence[Tensor]]
"""`(vector, keep) -> product`, both aligned with the parameters; without `keep` the graph can be used once."""


Inspect = Callable[[Sequence[Tensor]], None]
"""Is shown what is differentiated a second time."""


def require_second_derivative(tensors: Sequence[Tensor]) -> None:
    """Refuse gradients that went through a function with a first derivative only.

    Such a function leaves a node that raises when it is reached. But it is on no way to the parameters, so a
    derivative by them does not reach it and comes out zero without a word.

    Raises:
        RuntimeError: If there is such a node.
    """
    waiting: list[Any] = [t.grad_fn for t in tensors if t.grad_fn is not None]
    seen: set[Any] = set(waiting)
    while waiting:
        node = waiting.pop()
        if node.name().rpartition("::")[2] == "Error":
            raise RuntimeError("a function is marked with @once_differentiable, or has no double backward")
        further = [after for after, _ in node.next_functions if after is not None and after not in seen]
        seen.update(further)
        waiting += further


def _accept(tensors: Sequence[Tensor]) -> None:
    pass


def hessian(problem: Problem, batch: Batch, inspect: Inspect = _accept) -> Graph:
    """Return products with d^2/dw^2 of sum_{i in batch} l_i / N: the gradient of <gradient, v>."""
    grads = _grad([problem.losses(batch).sum() / problem.samples], problem.params, None, create=True)
    problem.passes.backward += batch.size
    inspect(grads)

    def apply(vector: Sequence[Tensor], keep: bool) -> Sequence[Tensor]:
        problem.passes.backward += batch.size
        return _grad(grads, problem.params, vector, keep=keep)

    return apply


def gauss_newton(problem: Problem, batch: Batch, inspect: Inspect = _accept) -> Graph:
    """Return products with sum_{i in batch} J_i^T (d^2 l_i / df^2) J_i / N."""
    outputs = problem.outputs(batch)
    seen = outputs.detach().requires_grad_()
    slope = _grad([problem.task.losses(seen, batch).sum() / problem.samples], [seen], None, create=True)
    inspect(slope)

    def curve(pushed: Tensor, keep: bool) -> Tensor:
        return _grad(slope, [seen], [pushed], keep=keep)[0]

    return _sandwich(outputs, problem, batch, curve, inspect)


def fisher(problem: Problem, batch: Batch, inspect: Inspect = _accept) -> Graph:
    """Return products with sum_{i in batch} g_i g_i^T / N, of which the losses' Jacobian is the rows g_i."""
    return _sandwich(problem.losses(batch), problem, batch, lambda pushed, _: pushed / problem.samples, inspect)


BUILDERS: dict[str, Callable[..., Graph]] = {
    "hessian": hessian,
    "ggn": gauss_newton,
    "fisher": fisher,
}


def _sandwich(
    outputs: Tensor, problem: Problem, batch: Batch, middle: Callable[[Tensor, bool], Tensor], inspect: Inspect
) -> Graph:
    """Return products with J^T M J; J v is the derivative of u -> J^T u, which is linear, applied to v."""
    u = torch.zeros_like(outputs, requires_grad=True)
    pulled = _grad([outputs], problem.params, [u], create=True)
    problem.passes.backward += batch.size
    inspect(pulled)

    def apply(vector: Sequence[Tensor], keep: bool) -> Sequence[Tensor]:
        problem.passes.backward += 2 * batch.size
        pushed = _grad(pulled, [u], vector, keep=True)[0]
        return _grad([outputs], problem.params, [middle(pushed, keep)], keep=keep)

    return apply


def _grad(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    weights: Sequence[Tensor] | None,
    *,
    create: bool = False,
    keep: bool = False,
) -> tuple[Tensor, ...]:
    """Return derivatives, zeros where the outputs do not depend on the inputs."""
    live = [i for i, output in enumerate(outputs) if output.requires_grad]
    if not live:
        return tuple(torch.zeros_like(t) for t in inputs)
    return torch.autograd.grad(
        [outputs[i] for i in live],
        list(inputs),
        None if weights is None else [weights[i].to(outputs[i].dtype) for i in live],
        create_graph=create,
        retain_graph=create or keep,
        allow_unused=True,
        materialize_grads=True,
    )

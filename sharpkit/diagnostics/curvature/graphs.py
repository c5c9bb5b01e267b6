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
    """Return products with the Hessian of sum_{i in batch} l_i / N where the outputs f are linear in the weights.

    That is sum_i J_i^T (d^2 l_i / df^2) J_i / N for losses of the outputs alone. With a penalty among the losses,
    l_i(f(w), w), it has the terms of the second derivatives by w, and by f and w, too.
    """
    outputs = problem.outputs(batch)
    seen = outputs.detach().requires_grad_()
    loss = problem.task.losses(seen, batch).sum() / problem.samples
    if not _reaches([loss], problem.params):
        slope = _grad([loss], [seen], None, create=True)
        inspect(slope)

        def curve(pushed: Tensor, keep: bool) -> Tensor:
            return _grad(slope, [seen], [pushed], keep=keep)[0]

        return _sandwich(outputs, problem, batch, curve, inspect)

    points = [seen, *problem.params]
    slopes = _grad([loss], points, None, create=True)
    inspect(slopes)
    push, pull = _jacobian(outputs, problem, batch, inspect)

    def apply(vector: Sequence[Tensor], keep: bool) -> Sequence[Tensor]:
        problem.passes.backward += 2 * batch.size
        # Kept, for a penalty on what the model computes on the way shares its graph with the outputs.
        by_output, *direct = _grad(slopes, points, [push(vector), *vector], keep=True)
        return [a + b for a, b in zip(pull(by_output, keep), direct, strict=True)]

    return apply


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
    """Return products with J^T M J."""
    push, pull = _jacobian(outputs, problem, batch, inspect)

    def apply(vector: Sequence[Tensor], keep: bool) -> Sequence[Tensor]:
        problem.passes.backward += 2 * batch.size
        return pull(middle(push(vector), keep), keep)

    return apply


def _jacobian(
    outputs: Tensor, problem: Problem, batch: Batch, inspect: Inspect
) -> tuple[Callable[[Sequence[Tensor]], Tensor], Callable[[Tensor, bool], Sequence[Tensor]]]:
    """Return v -> J v and u -> J^T u; J v is the derivative of u -> J^T u, which is linear, applied to v."""
    u = torch.zeros_like(outputs, requires_grad=True)
    pulled = _grad([outputs], problem.params, [u], create=True)
    problem.passes.backward += batch.size
    inspect(pulled)
    return (
        lambda vector: _grad(pulled, [u], vector, keep=True)[0],
        lambda image, keep: _grad([outputs], problem.params, [image], keep=keep),
    )


def _reaches(outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> bool:
    """Return whether outputs depend on inputs, which are leaves, by the graph alone."""
    leaves = {id(t) for t in inputs}
    waiting: list[Any] = [t.grad_fn for t in outputs if t.grad_fn is not None]
    seen: set[Any] = set(waiting)
    while waiting:
        node = waiting.pop()
        if id(getattr(node, "variable", None)) in leaves:
            return True
        further = [after for after, _ in node.next_functions if after is not None and after not in seen]
        seen.update(further)
        waiting += further
    return False


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

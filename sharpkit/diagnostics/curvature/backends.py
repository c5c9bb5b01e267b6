"""Eigenvalues by other programs: ARPACK on the same operator, and PyHessian for comparison with its numbers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from sharpkit.core import vec
from sharpkit.diagnostics import reductions
from sharpkit.diagnostics.curvature.eigenvalues import Eigenpairs, threshold
from sharpkit.diagnostics.curvature.lanczos import Array
from sharpkit.diagnostics.curvature.operators import Operator
from sharpkit.errors import UsageError
from sharpkit.libraries import imported


def arpack(operator: Operator, top: int, *, bottom: int, tol: float, seed: int) -> Eigenpairs:
    """Return the ends of a spectrum by the implicitly restarted Lanczos method (Lehoucq, Sorensen and Yang, 1998).

    Args:
        operator: A; its products are made in its own type, ARPACK's vectors are float64.
        top: How many of the largest, fewer than P.
        bottom: How many of the smallest.
        tol: Relative residual.
        seed: Of the starting vector.

    Raises:
        UsageError: If the matrix is too small.
    """
    import scipy.sparse.linalg

    solver: Any = scipy.sparse.linalg

    if top >= operator.size or bottom >= operator.size:
        raise UsageError(f"ARPACK finds fewer than {operator.size} eigenvalues of this matrix", "use --backend lanczos")

    def product(vector: Any) -> Any:
        flat = torch.from_numpy(np.array(vector.ravel())).to(operator.device, operator.dtype)
        operator.comm.broadcast_([flat])  # ranks on unlike machines round differently, and shall multiply by the same
        return operator.product(flat).double().cpu().numpy()

    linear = solver.LinearOperator((operator.size, operator.size), product, dtype=np.float64)
    start = np.random.default_rng(seed).standard_normal(operator.size)
    values: list[Array] = []
    vectors: list[Array] = []
    for which, count in (("LA", top), ("SA", bottom)):
        if not count:
            continue
        try:
            found, basis = solver.eigsh(linear, count, which=which, tol=tol, v0=start)
        except solver.ArpackNoConvergence as error:
            found, basis = error.eigenvalues, error.eigenvectors
        order = np.argsort(found)[::-1]
        values.append(found[order])
        vectors.append(basis[:, order].T)
    flat = torch.from_numpy(np.concatenate(vectors)).to(operator.device, operator.dtype)
    return judged(operator, np.concatenate(values), flat, tol)


def judged(operator: Operator, values: Array, vectors: Tensor, tol: float) -> Eigenpairs:
    """Return eigenpairs with the residuals that products give them.

    Args:
        operator: A.
        values: (k,).
        vectors: (k, P), of unit length.
        tol: Relative residual that counts as converged.
    """
    residuals = np.array(
        [
            float(reductions.norm(operator.product(v) - v * float(value)))
            for v, value in zip(vectors, values, strict=True)
        ]
    )
    norm = float(np.abs(values).max(initial=0.0))
    converged = residuals <= threshold(values, norm, tol, operator.dtype)
    return Eigenpairs(values, residuals, converged, vectors, np.full(len(values), math.nan))


def pyhessian(
    operator: Operator,
    model: nn.Module,
    criterion: Callable[[Tensor, Tensor], Tensor],
    batches: Sequence[tuple[Tensor, Tensor]],
    *,
    top: int,
    steps: int | None,
    runs: int,
    seed: int,
) -> tuple[Eigenpairs, list[tuple[Array, Array]]]:
    """Return what PyHessian (Yao, Gholami, Keutzer and Mahoney, 2020) says: eigenvalues, and nodes and weights a run.

    Its power iteration finds the eigenvalues of largest magnitude, and stops when one changes by less than 1e-3 from
    a step to the next, which bounds no error. Its density calls `torch.eig`, which torch no longer has; here that
    call is answered by `torch.linalg.eigh`, and nothing else is changed. The residuals are ours.

    Args:
        operator: The same Hessian, for the residuals.
        model: On the device of the batches.
        criterion: The mean loss.
        batches: `(inputs, targets)`; several are averaged by PyHessian.
        top: How many eigenvalues.
        steps: Nodes of the density; None leaves it out.
        runs: Its starting vectors.
        seed: Of torch's global generator, from which PyHessian draws.

    Raises:
        InputError: If PyHessian cannot be imported.
    """
    peer: Any = imported("pyhessian", "--backend pyhessian", "use --backend lanczos").hessian
    single = len(batches) == 1
    given: dict[str, Any] = {"data": batches[0]} if single else {"dataloader": list(batches)}
    grads = [(p, p.grad) for p in model.parameters()]
    try:
        with torch.random.fork_rng(), warnings.catch_warnings(action="ignore"), _eig():
            torch.manual_seed(seed)
            theirs: Any = peer(model, criterion, cuda=operator.device.type == "cuda", **given)
            values, vectors = theirs.eigenvalues(top_n=top)
            measures: list[Any] = list(zip(*theirs.density(iter=steps, n_v=runs), strict=True)) if steps else []
    finally:
        for p, grad in grads:
            p.grad = grad
    order = np.argsort(values)[::-1]
    flat = torch.stack([vec.flatten(vectors[i]) for i in order])
    pairs = judged(operator, np.array([values[i] for i in order]), flat, 1e-3)
    return pairs, [_sorted(nodes, weights) for nodes, weights in measures]


def _sorted(nodes: Sequence[float], weights: Sequence[float]) -> tuple[Array, Array]:
    order = np.argsort(nodes)
    return np.asarray(nodes, dtype=np.float64)[order], np.asarray(weights, dtype=np.float64)[order]


@contextmanager
def _eig() -> Generator[None]:
    """Answer `torch.eig(T, eigenvectors=True)` of a symmetric T as it once was."""

    def eig(matrix: Tensor, eigenvectors: bool) -> tuple[Tensor, Tensor]:
        values, vectors = cast("tuple[Tensor, Tensor]", torch.linalg.eigh(matrix))
        return torch.stack([values, torch.zeros_like(values)], dim=1), vectors

    before = getattr(torch, "eig", None)
    torch.eig = eig  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        if before is None:
            del torch.eig  # pyright: ignore[reportAttributeAccessIssue]
        else:
            torch.eig = before  # pyright: ignore[reportAttributeAccessIssue]

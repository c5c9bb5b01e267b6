"""The spectra that PyHessian, and curvlinops with ARPACK, find, with the products that they take."""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import dataclass
from importlib import import_module

import numpy as np
import torch
from curvlinops import HessianLinearOperator
from pyhessian import hessian as PyHessian
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn

from sharpkit.diagnostics.curvature.backends import _eig


@dataclass(frozen=True)
class Outcome:
    """What a contender found, and the products it made; None where it does not say."""

    values: np.ndarray
    products: int | None


def counted(operator: LinearOperator) -> tuple[LinearOperator, list[int]]:
    """Return an operator that counts its products in a list."""
    count: list[int] = []

    def product(vector: np.ndarray) -> np.ndarray:
        count.append(1)
        return operator @ vector.ravel().astype(np.float32)

    return LinearOperator(operator.shape, product, dtype=np.float32), count


def curvlinops(model: nn.Module, x: Tensor, y: Tensor, tol: float) -> Outcome:
    """Return what ARPACK finds on curvlinops' operator."""
    params = list(model.parameters())
    peer = HessianLinearOperator(model, nn.CrossEntropyLoss(), params, [(x, y)], check_deterministic=False)
    operator, count = counted(peer.to_scipy())
    start = np.random.default_rng(0).standard_normal(operator.shape[0])
    values = eigsh(operator, 5, which="LA", tol=tol, return_eigenvectors=False, v0=start)
    return Outcome(np.sort(values)[::-1], len(count))


class CountedHessian(HessianLinearOperator):
    """curvlinops' operator, which counts its products."""

    products = 0

    def _matmat(self, M: list[Tensor]) -> list[Tensor]:  # noqa: N803
        self.products += M[0].shape[-1]
        return super()._matmat(M)


def curvlinops_density(model: nn.Module, x: Tensor, y: Tensor) -> Outcome:
    """Return the largest nodes of curvlinops' density of 100 steps, whose ends it looks for by ARPACK first."""
    torch.manual_seed(0)
    params = list(model.parameters())
    operator = CountedHessian(model, nn.CrossEntropyLoss(), params, [(x, y)], check_deterministic=False)
    home = import_module("curvlinops.papyan2020traces.spectrum")
    real, found = home.fast_lanczos, []
    home.fast_lanczos = lambda *args: found.append(real(*args)) or found[-1]
    try:
        home.lanczos_approximate_spectrum(operator, 100)
    finally:
        home.fast_lanczos = real
    nodes = found[0][0].numpy()
    return Outcome(np.sort(nodes)[::-1][:5], operator.products)


@contextlib.contextmanager
def quietly():
    """Silence PyHessian's warnings, and count its products."""
    count: list[int] = []
    home = import_module("pyhessian.hessian")  # the package's own name for it is the class
    real = home.hessian_vector_product
    home.hessian_vector_product = lambda *args: (count.append(1), real(*args))[1]
    try:
        with warnings.catch_warnings(action="ignore"):
            yield count
    finally:
        home.hessian_vector_product = real


def pyhessian_values(model: nn.Module, x: Tensor, y: Tensor) -> Outcome:
    """Return PyHessian's eigenvalues of one batch, the sorted ones."""
    torch.manual_seed(0)
    with quietly() as count:
        values, _ = PyHessian(model, nn.CrossEntropyLoss(), data=(x, y), cuda=False).eigenvalues(top_n=5)
    model.zero_grad(set_to_none=True)
    return Outcome(np.array(sorted(values, reverse=True)), len(count))


def pyhessian_density(model: nn.Module, x: Tensor, y: Tensor) -> Outcome:
    """Return the largest nodes of PyHessian's density of 100 steps, with its call of torch.eig answered."""
    torch.manual_seed(0)
    with quietly() as count, _eig():
        nodes, _ = PyHessian(model, nn.CrossEntropyLoss(), data=(x, y), cuda=False).density(iter=100, n_v=1)
    model.zero_grad(set_to_none=True)
    return Outcome(np.sort(nodes[0])[::-1][:5], len(count))

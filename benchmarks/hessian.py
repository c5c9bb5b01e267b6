"""Spectra: ours, PyHessian and curvlinops with ARPACK on the same model and samples, in one run.

The model is a CNN of 102,000 parameters with batch norm, trained on digits for a few epochs; the matrix is the Hessian
of the mean cross-entropy of 512 samples with batch norm in evaluation mode, which is what the peers differentiate too.
The reference is ARPACK on curvlinops' operator with a tolerance of 1e-8. In a round every contender runs once, in
shuffled order; times are medians of processor time, which other work on the machine disturbs least, and ratios are
medians of the ratios to ours in the same round. Run it with

    python benchmarks/hessian.py --rounds 3
"""

from __future__ import annotations

import argparse
import contextlib
import platform
import random
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version

import numpy as np
import torch
from curvlinops import HessianLinearOperator
from pyhessian import hessian as PyHessian
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from torch.nn import functional

from sharpkit.data import DATASETS
from sharpkit.diagnostics import hessian
from sharpkit.diagnostics.backends import _eig
from sharpkit.engine.runtime import keep_freed_memory

SAMPLES = 512


@dataclass(frozen=True)
class Outcome:
    """What a contender found, and the products it made; None where it does not say."""

    values: np.ndarray
    products: int | None


def network() -> nn.Module:
    """Return four convolutions with batch norm and a read-out."""
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate([(1, 40), (40, 40), (40, 80), (80, 80)]):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        if i == 1:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(80, 10))


def trained(x: Tensor, y: Tensor, epochs: int) -> nn.Module:
    """Return the network after some epochs of SGD."""
    torch.manual_seed(0)
    model = network()
    base = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(128):
            base.zero_grad()
            functional.cross_entropy(model(x[rows]), y[rows]).backward()
            base.step()
    model.zero_grad(set_to_none=True)
    return model.eval()


def ours(model: nn.Module, x: Tensor, y: Tensor, **options: object) -> Outcome:
    """Return our largest eigenvalues."""
    found = hessian(model, functional.cross_entropy, [(x, y)], **options)
    return Outcome(found.eigenvalues, found.products)


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


def our_density(model: nn.Module, x: Tensor, y: Tensor) -> Outcome:
    """Return the largest nodes of our density of 100 steps, which gives the eigenvalues too."""
    found = hessian(model, functional.cross_entropy, [(x, y)], density=True, verify=False, tol=1e-3)
    return Outcome(found.density.nodes[0][::-1][:5], found.products)


def measure(contenders: dict[str, Callable[[], Outcome]], rounds: int) -> dict[str, tuple[list[float], Outcome]]:
    """Return the seconds of every round and the last outcome of each contender."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    outcomes: dict[str, Outcome] = {}
    order, shuffler = list(contenders), random.Random(0)
    for _ in range(rounds):
        shuffler.shuffle(order)
        for name in order:
            start = time.process_time()
            outcomes[name] = contenders[name]()
            times[name].append(time.process_time() - start)
    return {name: (times[name], outcomes[name]) for name in contenders}


def report(title: str, measured: dict[str, tuple[list[float], Outcome]], reference: np.ndarray) -> None:
    """Print a Markdown table with the first contender as 1."""
    base = next(iter(measured.values()))[0]
    print(f"\n### {title}\n\n| solver | products | CPU seconds, median | over ours | largest relative error |")
    print("|---|---|---|---|---|")
    for name, (seconds, outcome) in measured.items():
        ratio = statistics.median(a / b for a, b in zip(seconds, base, strict=True))
        error = np.abs(outcome.values / reference - 1).max()
        print(
            f"| {name} | {outcome.products} | {statistics.median(seconds):.2f} | {ratio:.2f} | {error:.1e} |",
            flush=True,
        )


def main() -> None:
    """Measure products, eigenvalues, density and trace, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--density-rounds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    names = ("scipy", "curvlinops-for-pytorch", "pyhessian")
    print(
        f"{platform.platform()}, {options.threads} thread(s), Python {platform.python_version()}, "
        f"torch {torch.__version__}, " + ", ".join(f"{name} {version(name)}" for name in names)
    )
    train = DATASETS["digits"]().train
    model = trained(train.inputs, train.targets, options.epochs)
    x, y = train.inputs[:SAMPLES], train.targets[:SAMPLES]
    reference = curvlinops(model, x, y, 1e-8).values
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, lambda {reference}")
    report(
        "Largest five eigenvalues to 1e-3",
        measure(
            {
                "sharpkit, residuals by the recurrence": lambda: ours(model, x, y, tol=1e-3, verify=False),
                "sharpkit, residuals by products": lambda: ours(model, x, y, tol=1e-3),
                "curvlinops + eigsh(tol=1e-3)": lambda: curvlinops(model, x, y, 1e-3),
                "PyHessian, one batch": lambda: pyhessian_values(model, x, y),
            },
            options.rounds,
        ),
        reference,
    )
    start = time.process_time()
    found = hessian(model, functional.cross_entropy, [(x, y)], tol=1e-3, verify=False, trace="deflated")
    trace = found.trace
    print(
        f"\ntrace {trace.value:.1f} +- {trace.error:.1f} in {found.products} products, "
        f"{time.process_time() - start:.1f} s"
    )
    report(
        "Density of 100 steps (the error is that of the five largest nodes)",
        measure(
            {
                "sharpkit": lambda: our_density(model, x, y),
                "PyHessian, repaired": lambda: pyhessian_density(model, x, y),
            },
            options.density_rounds,
        ),
        reference,
    )


if __name__ == "__main__":
    main()

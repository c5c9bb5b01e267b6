"""Spectra: ours, PyHessian and curvlinops with ARPACK on the same model and samples, in one run.

The matrix is the Hessian of the mean cross-entropy with batch norm in evaluation mode, which is what the peers
differentiate too, of a network that was trained on digits for a few epochs: a CNN of 102,000 parameters, or the
package's own `cnn`, with 512 samples, or ResNet-18 in its form for CIFAR with digits enlarged to 3x32x32. The reference
is ARPACK on curvlinops' operator with a tolerance of 1e-8; for ResNet-18 it is ours in float64.

In a round every contender runs once, in shuffled order; times are medians of processor time, which other work on the
machine disturbs least, and ratios are medians of the ratios to ours in the same round. Peak memory is that of a process
of its own, beyond what it holds with the model before it starts. Run it with

    python benchmarks/hessian.py --rounds 3
    python benchmarks/hessian.py --net resnet18 --samples 64 --epochs 1 --rounds 1
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from networks import network, trained
from spectrum_peers import Outcome, curvlinops, curvlinops_density, pyhessian_density, pyhessian_values
from torch import Tensor, nn
from torch.nn import functional
from turns import machine, turns

from sharpkit.core import vec
from sharpkit.data import DATASETS
from sharpkit.diagnostics import hessian
from sharpkit.diagnostics.curvature.graphs import BUILDERS
from sharpkit.diagnostics.curvature.matrices import Curvature
from sharpkit.diagnostics.problem import opened
from sharpkit.engine.runtime import keep_freed_memory
from sharpkit.models import MODELS

Contender = Callable[[nn.Module, Tensor, Tensor], Outcome]


def made(net: str) -> tuple[nn.Module, Tensor, Tensor]:
    """Return an untrained network, and the images and classes of digits as it takes them."""
    train = DATASETS["digits"]().train
    torch.manual_seed(0)
    if net == "wide-cnn":
        return network(), train.inputs, train.targets
    if net in ("cnn", "mlp"):
        return MODELS[net](tuple(train.inputs.shape[1:]), 10), train.inputs, train.targets
    large = functional.interpolate(train.inputs, size=32, mode="bilinear").expand(-1, 3, -1, -1).contiguous()
    return MODELS[net]((3, 32, 32), 10), large, train.targets


def ours(**options: object) -> Contender:
    """Return our largest eigenvalues."""

    def find(model: nn.Module, x: Tensor, y: Tensor) -> Outcome:
        found = hessian(model, functional.cross_entropy, [(x, y)], **options)
        return Outcome(found.eigenvalues, found.products)

    return find


def our_density(model: nn.Module, x: Tensor, y: Tensor) -> Outcome:
    """Return the largest nodes of our density of 100 nodes, which holds the eigenvalues."""
    found = hessian(model, functional.cross_entropy, [(x, y)], density=True, verify=False, copies=False, tol=1e-3)
    return Outcome(found.density.nodes[0][::-1][:5], found.products)


TOP: dict[str, Contender] = {
    "sharpkit, neither residuals nor copies checked, as the peers": ours(tol=1e-3, verify=False, copies=False),
    "sharpkit, residuals checked": ours(tol=1e-3, copies=False),
    "sharpkit, residuals and copies checked": ours(tol=1e-3),
    "curvlinops + eigsh(tol=1e-3)": lambda model, x, y: curvlinops(model, x, y, 1e-3),
    "PyHessian, one batch": pyhessian_values,
}
DENSITY: dict[str, Contender] = {
    "sharpkit": our_density,
    "PyHessian, repaired": pyhessian_density,
    "curvlinops": curvlinops_density,
}


def measure(
    contenders: dict[str, Contender], rounds: int, model: nn.Module, x: Tensor, y: Tensor
) -> dict[str, tuple[list[float], Outcome]]:
    """Return the seconds of every round and the last outcome of each contender."""

    def turn(contender: Contender) -> tuple[float, Outcome]:
        start = time.process_time()
        outcome = contender(model, x, y)
        return time.process_time() - start, outcome

    taken = turns({name: partial(turn, contender) for name, contender in contenders.items()}, rounds, warm_up=0)
    return {name: ([seconds for seconds, _ in every], every[-1][1]) for name, every in taken.items()}


def report(
    title: str, measured: dict[str, tuple[list[float], Outcome]], reference: np.ndarray, peaks: dict[str, float]
) -> None:
    """Print a Markdown table with the first contender as 1."""
    base = next(iter(measured.values()))[0]
    print(f"\n### {title}\n\n| solver | products | CPU s, median | over ours | largest relative error | peak, MB |")
    print("|---|---|---|---|---|---|")
    for name, (seconds, outcome) in measured.items():
        ratio = statistics.median(a / b for a, b in zip(seconds, base, strict=True))
        error = np.abs(outcome.values / reference - 1).max()
        print(
            f"| {name} | {outcome.products} | {statistics.median(seconds):.2f} | {ratio:.2f} | {error:.1e} "
            f"| {peaks.get(name, float('nan')):.0f} |",
            flush=True,
        )


def products(model: nn.Module, x: Tensor, y: Tensor, rounds: int) -> None:
    """Print the time of a product over that of a gradient, with the graph kept and built anew."""

    def gradient() -> None:
        functional.cross_entropy(model(x), y).backward()
        model.zero_grad(set_to_none=True)

    times: dict[str, list[float]] = {"gradient": [], "graph kept": [], "graph built anew": []}
    with opened(model, functional.cross_entropy, [(x, y)]) as problem:
        vector = torch.randn(problem.size, generator=torch.Generator().manual_seed(0))
        kept = Curvature(problem)
        kept.product(vector)
        pieces = vec.unflatten(vector, problem.params)
        anew = BUILDERS["hessian"]
        calls = [
            gradient,
            lambda: kept.product(vector),
            lambda: anew(problem, problem.batches[0])(pieces, False),
        ]
        for _ in range(max(3, rounds)):
            for name, call in zip(times, calls, strict=True):
                start = time.process_time()
                call()
                times[name].append(time.process_time() - start)
    base = statistics.median(times["gradient"])
    shown = ", ".join(
        f"{name} {statistics.median(t):.3f} s ({statistics.median(t) / base:.2f})" for name, t in times.items()
    )
    print(f"\none product, over a gradient: {shown}")


def peak_of(name: str, options: argparse.Namespace, weights: Path) -> float:
    """Return the memory, in MB, that a contender takes at most in a process of its own."""
    command = [sys.executable, __file__, "--one", name, "--weights", str(weights), "--net", options.net]
    done = subprocess.run([*command, "--samples", str(options.samples)], capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def one(options: argparse.Namespace) -> None:
    """Run one contender, and print the memory that it took."""
    model, x, y = made(options.net)
    model.load_state_dict(torch.load(options.weights))
    model.eval()
    before = peak_kb()
    ({**TOP, **DENSITY})[options.one](model, x[: options.samples], y[: options.samples])
    print((peak_kb() - before) / 1024)


def peak_kb() -> int:
    """Return the most memory this program had; not getrusage's number, which begins with that of its parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def main() -> None:
    """Measure products, eigenvalues, density and trace, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=("wide-cnn", "cnn", "resnet18"), default="wide-cnn")
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--density-rounds", type=int, default=1, help="0 leaves the density out")
    parser.add_argument("--peaks", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--weights", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    if options.one:
        one(options)
        return
    names = ("scipy", "curvlinops-for-pytorch", "pyhessian")
    print(machine(options.threads, *names))
    model, inputs, classes = made(options.net)
    trained(model, inputs, classes, options.epochs)
    x, y = inputs[: options.samples], classes[: options.samples]
    if options.net != "resnet18":
        reference = curvlinops(model, x, y, 1e-8).values
    else:
        reference = ours(tol=1e-6, dtype=torch.float64)(model, x, y).values
    print(
        f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(x)} samples, lambda {reference}", flush=True
    )
    products(model, x, y, options.rounds)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, "weights.pt")
        torch.save(model.state_dict(), weights)
        chosen = {**TOP, **(DENSITY if options.density_rounds else {})}
        peaks = {name: peak_of(name, options, weights) for name in chosen} if options.peaks else {}
    report("Largest five eigenvalues to 1e-3", measure(TOP, options.rounds, model, x, y), reference, peaks)
    start = time.process_time()
    found = hessian(model, functional.cross_entropy, [(x, y)], tol=1e-3, verify=False, copies=False, trace="deflated")
    print(
        f"\ntrace {found.trace.value:.1f} +- {found.trace.error:.1f} in {found.products} products, "
        f"{time.process_time() - start:.1f} s",
        flush=True,
    )
    if options.density_rounds:
        measured = measure(DENSITY, options.density_rounds, model, x, y)
        report("Density of 100 steps (the error is that of the five largest nodes)", measured, reference, peaks)


if __name__ == "__main__":
    main()

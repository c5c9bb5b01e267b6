"""Gradients at fixed weights: what `gradnorm-qq` and `graddiff` cost over the gradients that they cannot do without.

A plain gradient is a forward and a backward pass of a batch in training mode and nothing else. In a round the plain
loop and the diagnostic run on the same batches, in turns; times are of the processor, which other work on the machine
disturbs least, and ratios are medians over the rounds. Run it with

    python benchmarks/gradients.py --rounds 5
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from turns import machine, quartiles, timed, turns

from sharpkit.data import DATASETS
from sharpkit.diagnostics import graddiff, gradnorms
from sharpkit.engine.runtime import keep_freed_memory
from sharpkit.models import MODELS

Pair = tuple[Tensor, Tensor]


def plain(model: nn.Module, batches: list[Pair]) -> None:
    """Compute the gradient of every batch."""
    params = list(model.parameters())
    model.train()
    for x, y in batches:
        torch.autograd.grad(functional.cross_entropy(model(x), y), params)


def measure(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the processor seconds of every round, in shuffled order, after one that does not count."""
    return turns({name: timed(work, time.process_time) for name, work in contenders.items()}, rounds)


def report(title: str, times: dict[str, list[float]], batches: int, limits: dict[str, float]) -> None:
    """Print a Markdown table with the first contender as 1."""
    base = next(iter(times.values()))
    print(f"\n### {title}\n\n| what | CPU ms a batch, median | over plain gradients | quartiles | at most |")
    print("|---|---|---|---|---|")
    for name, seconds in times.items():
        low, middle, high = quartiles(seconds, base)
        limit = f"{limits[name]:g}" if name in limits else ""
        milliseconds = 1e3 * statistics.median(seconds) / batches
        print(
            f"| {name} | {milliseconds:.2f} | {middle:.3f} | {low:.3f} to {high:.3f} | {limit} |",
            flush=True,
        )


def compare(name: str, model: nn.Module, batches: list[Pair], rounds: int, pairs: int) -> None:
    """Measure norms and differences on one model."""
    loss = functional.cross_entropy
    contenders: dict[str, Callable[[], object]] = {
        "plain gradients": lambda: plain(model, batches),
        "`gradnorms`": lambda: gradnorms(model, loss, batches),
    }
    title = f"{name}, {sum(p.numel() for p in model.parameters()):,} parameters, batches of {len(batches[0][1])}"
    report(f"{len(batches)} squared norms: {title}", measure(contenders, rounds), len(batches), {"`gradnorms`": 1.1})
    few = batches[:pairs]
    contenders = {
        "plain gradients": lambda: plain(model, few),
        "`graddiff`": lambda: graddiff(model, loss, few),
    }
    report(f"{len(few)} pairs of gradients: {title}", measure(contenders, rounds), len(few), {"`graddiff`": 2.3})


def main() -> None:
    """Measure the small CNN on digits and ResNet-18 on images of CIFAR's size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=("cnn", "resnet18"), default=None)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    print(f"{machine(options.threads)}, {options.rounds} rounds")
    torch.manual_seed(0)
    if options.only in (None, "cnn"):
        train = DATASETS["digits"]().train
        rows = [torch.randperm(len(train))[:128] for _ in range(400)]
        batches = [(train.inputs[r], train.targets[r]) for r in rows]
        compare("cnn on digits", MODELS["cnn"]((1, 8, 8), 10), batches, options.rounds, 40)
    if options.only in (None, "resnet18"):
        batches = [(torch.randn(128, 3, 32, 32), torch.randint(10, (128,))) for _ in range(2)]
        compare("ResNet-18 on 32x32", MODELS["resnet18"]((3, 32, 32), 10), batches, options.rounds, 1)


if __name__ == "__main__":
    main()

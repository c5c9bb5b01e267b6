"""What the benchmarks share: contenders that take turns, and the machine they do it on."""

from __future__ import annotations

import os
import platform
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import torch

K = TypeVar("K")
T = TypeVar("T")


def turns(contenders: Mapping[K, Callable[[], T]], rounds: int, warm_up: int = 1) -> dict[K, list[T]]:
    """Return what every contender returns in every round.

    In a round each has one turn, in an order that is shuffled anew, so that a slow spell of the machine hits all alike;
    the order is the same in every process.

    Args:
        contenders: Take a turn and return how long it took.
        rounds: That count.
        warm_up: Rounds before, that do not.
    """
    taken: dict[K, list[T]] = {name: [] for name in contenders}
    order, shuffler = list(contenders), random.Random(0)
    for number in range(warm_up + rounds):
        shuffler.shuffle(order)
        for name in order:
            one = contenders[name]()
            if number >= warm_up:
                taken[name].append(one)
    return taken


def timed(work: Callable[[], object], clock: Callable[[], float]) -> Callable[[], float]:
    """Return a turn that tells how long the work took by a clock."""

    def turn() -> float:
        start = clock()
        work()
        return clock() - start

    return turn


def quartiles(seconds: Sequence[float], reference: Sequence[float]) -> tuple[float, float, float]:
    """Return the quartiles, over the rounds, of one contender's time over another's."""
    ratios = [a / b for a, b in zip(seconds, reference, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return low, middle, high


def machine(threads: int, *packages: str) -> str:
    """Return what the numbers depend on: processor, cores, load as the benchmark begins, threads, versions."""
    peers = "".join(f", {name} {version(name)}" for name in packages)
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    return (
        f"{platform.platform()}, {_processor()}, {os.cpu_count()} cores, load {load}, {threads} thread(s), "
        f"Python {platform.python_version()}, torch {torch.__version__}{peers}"
    )


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "processor unknown"
    )

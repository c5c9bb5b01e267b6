"""Diagnostics in several processes of one thread and one core each, against one such process.

The network is the CNN of 102,000 parameters of `hessian.py`, trained on digits for two epochs. In a round every
diagnostic runs once in the first process alone, while the others wait, and once in all of them together, in shuffled
order. A speed-up is a ratio of times of the same round: of the clock, which only counts on a machine that does nothing
else, and of the processor, that of one process over that of the busiest of several, which leaves out what processes
wait for each other and for other programs. Medians over the rounds are told, and how far the numbers are apart. Run it
with

    torchrun --standalone --nproc-per-node 2 benchmarks/parallel_diagnostics.py --rounds 5
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from networks import network, trained
from numpy.typing import NDArray
from torch.nn import functional
from turns import machine, turns

from sharpkit.core.comm import ALONE, Comm
from sharpkit.data import DATASETS
from sharpkit.diagnostics import graddiff, gradnorms, hessian, landscape, sharpness
from sharpkit.engine import ranks
from sharpkit.engine.runtime import keep_freed_memory

BATCH = 128
ASKED = 1.8
"""What two processes with a core each have to reach."""

Diagnostic = Callable[[Comm], Sequence[float] | NDArray[np.float64]]


def diagnostics(samples: int, side: int, batches: int) -> dict[str, Diagnostic]:
    """Return what is timed, by name; each gives the numbers that it found."""
    train = DATASETS["digits"]().train
    torch.manual_seed(0)
    model = trained(network(), train.inputs, train.targets, 2)
    loss, data = functional.cross_entropy, [(train.inputs[:samples], train.targets[:samples])]
    draw = torch.Generator().manual_seed(0)
    rows = [torch.randint(len(train.inputs), (BATCH,), generator=draw) for _ in range(batches)]
    drawn = [(train.inputs[r], train.targets[r]) for r in rows]
    grid = np.linspace(-1, 1, side)
    return {
        f"Hessian, top 5 to 1e-3, {samples} samples": lambda c: hessian(
            model, loss, data, tol=1e-3, comm=c
        ).eigenvalues,
        f"trace, 20 products, {samples} samples": lambda c: [
            hessian(
                model, loss, data, top=1, tol=0.1, trace="hutchinson", trace_tol=1e-9, trace_products=20, comm=c
            ).trace.value
        ],
        f"surface, {side} x {side}, {samples} samples": lambda c: landscape(
            model, loss, data, x=grid, y=grid, check=False, comm=c
        ).loss.ravel(),
        f"sharpness, {samples} samples": lambda c: sharpness(
            model, loss, data, steps=8, directions=8, restarts=0, comm=c
        ).directions,
        f"{batches} gradient norms": lambda c: gradnorms(model, loss, drawn, comm=c).values,
        f"graddiff, {batches} batches": lambda c: graddiff(model, loss, drawn, comm=c).cosines,
    }  # fmt: skip


def timed(work: Diagnostic, comm: Comm, together: bool) -> tuple[float, float, NDArray[np.float64]]:
    """Return seconds of the clock and of the busiest processor, and the numbers, of one process or of all."""
    comm.objects(None)
    wall, cpu = time.perf_counter(), time.process_time()
    found = np.zeros(0)
    if together or comm.rank == 0:
        found = np.asarray(work(comm if together else ALONE))
    used = time.process_time() - cpu
    busiest = max(comm.objects(used))
    return time.perf_counter() - wall, busiest if together else comm.agreed(used), found


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--side", type=int, default=11)
    parser.add_argument("--batches", type=int, default=40)
    options = parser.parse_args()
    comm = ranks.join("cpu")
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):  # a core each
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[comm.rank % len(cores)]})
    keep_freed_memory()
    chosen = diagnostics(options.samples, options.side, options.batches)
    ways = {(name, how): partial(timed, work, comm, how) for name, work in chosen.items() for how in (False, True)}
    taken = turns(ways, options.rounds)
    if comm.rank == 0:
        report(list(chosen), taken, comm.size)
    ranks.leave()


def report(
    names: list[str],
    taken: dict[tuple[str, bool], list[tuple[float, float, NDArray[np.float64]]]],
    size: int,
) -> None:
    """Print the table."""
    print(f"{machine(1)}, in each of {size} processes")
    print(f"\n| what | one, s | {size}, s | speed-up, clock | speed-up, processor | asked | numbers apart |")
    print("|---|---|---|---|---|---|---|")
    for name in names:
        one, many = taken[name, False], taken[name, True]
        clock, processor = (
            statistics.median(a[i] / b[i] for a, b in zip(one, many, strict=True)) for i in range(2)
        )  # fmt: skip
        exact, found = one[-1][2], many[-1][2]
        apart = np.abs(found - exact).max() / np.abs(exact).max()
        asked = f"{ASKED}" if size == 2 else ""
        medians = [statistics.median(wall for wall, _, _ in times) for times in (one, many)]
        print(
            f"| {name} | {medians[0]:.2f} | {medians[1]:.2f} | {clock:.2f} | {processor:.2f} | {asked} | {apart:.1e} |"
        )


if __name__ == "__main__":
    main()

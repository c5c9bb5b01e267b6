"""What a step of SAMPa costs on two processes, over a step of SGD in each of them with the same threads.

Two processes on the CPU meet by gloo. Every contender has a copy of one network on both. In a round each takes one
step, in an order that is shuffled anew, the same in both processes; a round's times are divided by that round's SGD
step. SGD runs in both processes at once, each with the whole batch, so that both cores are as busy as under SAMPa. A
step begins when both processes are there and ends when the slower one has ended. The table gives medians over the
rounds and quartiles. `exchange` is the time of the pair's messages alone: what a step of SAMPa sends, with nothing
to compute. Run it with

    python benchmarks/sampa_parallel.py --rounds 40 --threads 1
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import tempfile
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from loops import base_of
from step_overhead import images
from torch import Tensor, multiprocessing, nn
from torch.nn import functional
from turns import machine, quartiles, timed, turns

import sharpkit
from sharpkit.core.comm import Comm, Ranks
from sharpkit.engine.runtime import keep_freed_memory
from sharpkit.models import MODELS

REFERENCE = "sharpkit sgd, in both"
LIMIT = 1.25
Step = Callable[[], object]


def contenders(model: nn.Module, batch: tuple[Tensor, Tensor], pair: Comm) -> dict[str, Step]:
    """Return one step of every contender."""

    def ours(recipe: str, **options: object) -> Step:
        own = copy.deepcopy(model)
        opt = sharpkit.SharpnessAware(own, base_of(own), recipe, loss=functional.cross_entropy, **options)
        return lambda: opt.step(batch)

    return {
        REFERENCE: ours("sgd"),
        "sampa, in turn": ours("sampa"),
        "sampa, on two ranks": ours("sampa", pair=pair),
        "sampa+asam, on two ranks": ours("sampa+asam", pair=pair),
        "exchange": exchange(model, pair),
    }


def exchange(model: nn.Module, pair: Comm) -> Step:
    """Return the messages that a step of SAMPa sends: a short one, and one with a gradient each way."""
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    short, long = ([torch.zeros(n, dtype=torch.uint8) for _ in range(2)] for n in (6000, size))

    def both() -> None:
        pair.swap_(*short)
        pair.swap_(*long)

    return both


def measure(steps: dict[str, Step], rounds: int, comm: Comm) -> dict[str, list[float]]:
    """Return the seconds of every contender's step in every round, after two rounds of warm-up."""

    def slower(step: Step) -> Callable[[], float]:
        def turn() -> float:
            dist.barrier()
            return max(comm.objects(timed(step, time.perf_counter)()))

        return turn

    return turns({name: slower(step) for name, step in steps.items()}, rounds, warm_up=2)


def report(title: str, times: dict[str, list[float]]) -> None:
    """Print a Markdown table of ratios."""
    print(f"\n### {title}\n\n| step | median, ms | over SGD | quartiles |\n|---|---|---|---|")
    for name, seconds in times.items():
        low, middle, high = quartiles(seconds, times[REFERENCE])
        print(f"| {name} | {1e3 * statistics.median(seconds):.2f} | {middle:.3f} | {low:.3f} to {high:.3f} |")
        if name == "sampa, on two ranks":
            verdict = "kept" if middle <= LIMIT else "missed"
    print(f"\nAt most {LIMIT} for sampa on two ranks: {verdict}.", flush=True)


def run(rank: int, folder: str, options: argparse.Namespace) -> None:
    """Be one of the two processes."""
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    comm = Ranks()
    _, pair = comm.pairs()
    cases: list[tuple[str, nn.Module, tuple[Tensor, Tensor], int]] = []
    torch.manual_seed(0)
    if options.only != "resnet":
        model = MODELS["cnn"]((1, 8, 8), 10)
        cases.append(("small CNN, digits, batch 128", model, images(128, 1, 8), options.rounds))
    if options.only != "cnn":
        title = f"ResNet-18 (11.2 M parameters), 32x32, batch {options.resnet_batch}"
        model = MODELS["resnet18"]((3, 32, 32), 10)
        cases.append((title, model, images(options.resnet_batch, 3, 32), max(4, options.rounds // 4)))
    for title, model, batch, rounds in cases:
        times = measure(contenders(model, batch, pair), rounds, comm)
        if rank == 0:
            report(title, times)
    dist.destroy_process_group()


def main() -> None:
    """Run both networks and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help="rounds for the small CNN; ResNet-18 takes a quarter")
    parser.add_argument("--threads", type=int, default=1, help="of each of the two processes")
    parser.add_argument("--resnet-batch", type=int, default=32)
    parser.add_argument("--only", choices=("cnn", "resnet"), default=None)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(options.threads))
    print(f"{machine(options.threads)}, in each of 2 processes, gloo", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(run, (folder, options), nprocs=2)


if __name__ == "__main__":
    main()

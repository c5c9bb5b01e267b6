"""What every recipe costs: its time over plain SGD's beside the gradients that it counts, and the sparse masks' saving.

Every recipe has its own copy of one network and takes blocks of five steps on five batches, in an order that is
shuffled anew in every round; a block's time is divided by that of SGD in the same round. `work` is what the counted
samples come to with a forward pass for 1 and a backward pass for 2 of a step's 3 units; FLOPs are those of torch's
counter, which sees weight gradients that are left out. Times are the processor's, so that with one thread it matters
less what else the machine does. The learning rate is tiny, so that gradient norms vary as they
do within an epoch. Masks and averages are made in a step before those that are measured. Run it with

    python benchmarks/recipe_cost.py --rounds 4 --threads 1
"""

from __future__ import annotations

import argparse
import copy
import random
import statistics
import time
from dataclasses import dataclass, field

import torch
from step_overhead import images
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from turns import machine

import sharpkit
from sharpkit.core.fisher import squared_gradients
from sharpkit.core.task import Batch, Supervised
from sharpkit.engine.runtime import keep_freed_memory
from sharpkit.models import MODELS

BLOCK = 5
UNIONS = ("sampa+asam", "ae-sam+ssam-f", "msam+vasso:rho=0.1", "sam+mesa:start=-1")
SPARSE = (
    *(f"ssam-f:sparsity=0.5:structure={kind}" for kind in ("filter", "tensor", "2:4")),
    *(f"ssam-f:sparsity=0.9:structure={kind}" for kind in ("filter", "tensor")),
)
ARGUMENTS = {"saf": ":start=0:lag=1", "mesa": ":start=-1", "ssam-f": ":nf=16"}
PAPER_SLOPE = 0.706


def paper_model(sparsity: float) -> float:
    """Return what Sparse SAM's tables call FLOPs, relative to SGD: 2 - 0.706 s. It is a model; nothing was measured."""
    return 2 - PAPER_SLOPE * sparsity


@dataclass
class Found:
    """Of one recipe: FLOPs over SGD's, and of every round time over SGD's, gradients a step and work over SGD's."""

    flops: float = 0.0
    times: list[float] = field(default_factory=list[float])
    gradients: list[float] = field(default_factory=list[float])
    work: list[float] = field(default_factory=list[float])


def measure(model: nn.Module, size: int, rounds: int) -> dict[str, Found]:
    """Return what was found of every recipe."""
    every = images(BLOCK * size, 3, 32)
    batches = [(*(t[i::BLOCK] for t in every), torch.arange(i, BLOCK * size, BLOCK)) for i in range(BLOCK)]
    names = [*(name + ARGUMENTS.get(name, "") for name in sharpkit.RECIPES), *UNIONS, *SPARSE]
    optimizers: dict[str, sharpkit.SharpnessAware] = {}
    for name in names:
        own = copy.deepcopy(model)
        options = {"total_steps": 10**6, "steps_per_epoch": BLOCK if "saf" in name else 10**5, "samples": BLOCK * size}
        base = torch.optim.SGD(own.parameters(), lr=1e-6, momentum=0.9, weight_decay=5e-4)
        optimizers[name] = sharpkit.SharpnessAware(own, base, name, loss=functional.cross_entropy, **options)
    found = {name: Found() for name in names}
    for name, opt in optimizers.items():
        opt.step(batches[0])
        with FlopCounterMode(display=False) as counter:
            for batch in batches:
                opt.step(batch)
        found[name].flops = float(counter.get_total_flops())
    unit = found["sgd"].flops
    for one in found.values():
        one.flops /= unit
    shuffler = random.Random(0)
    for number in range(rounds):
        shuffler.shuffle(names)
        seconds: dict[str, float] = {}
        for name in names:
            start = time.process_time()
            reports = [optimizers[name].step(batch) for batch in batches]
            seconds[name] = time.process_time() - start
            units = sum(r.forward_samples + 2 * r.backward_samples for r in reports) / (3 * size)
            found[name].gradients.append(sum(r.gradients for r in reports) / BLOCK)
            found[name].work.append(units / BLOCK)
        for name in names:
            found[name].times.append(seconds[name] / seconds["sgd"])
        print(f"round {number + 1} of {rounds} done", flush=True)
    return found


def report(found: dict[str, Found]) -> None:
    """Print a Markdown table."""
    print("\n| recipe | gradients a step | work | FLOPs | time over SGD | quartiles | time / work |")
    print("|---|---|---|---|---|---|---|")
    for name, one in found.items():
        low, middle, high = statistics.quantiles(one.times, n=4)
        gradients, work = statistics.mean(one.gradients), statistics.mean(one.work)
        each = statistics.median(t / w for t, w in zip(one.times, one.work, strict=True))
        print(
            f"| `{name}` | {gradients:.2f} | {work:.2f} | {one.flops:.2f} | {middle:.2f} | {low:.2f} to {high:.2f} "
            f"| {each:.2f} |"
        )
    print("\n| sparsity | paper's model, 2 - 0.706 s |\n|---|---|")
    for sparsity in (0.5, 0.8, 0.9, 0.95, 0.98, 0.99):
        print(f"| {sparsity} | {paper_model(sparsity):.2f} |")


def fisher(samples: int, rounds: int) -> None:
    """Print how much faster squared gradients of all samples at once are than a loop of single samples."""
    print("\n| network | samples | a loop over ours | quartiles | ours, ms |\n|---|---|---|---|---|")
    for name, shape, count in (("mlp", (1, 8, 8), samples), ("cnn", (1, 8, 8), samples), ("resnet18", (3, 32, 32), 16)):
        model = MODELS[name](shape, 10)
        task, params = Supervised(model, functional.cross_entropy), list(model.parameters())
        batch = Batch(*images(count, shape[0], shape[1]))
        ratios: list[float] = []
        seconds: list[float] = []
        for number in range(rounds + 1):
            start = time.process_time()
            squared_gradients(model, task, params, batch)
            middle = time.process_time()
            one_by_one(model, batch)
            if number:
                seconds.append(middle - start)
                ratios.append((time.process_time() - middle) / seconds[-1])
        low, half, high = statistics.quantiles(ratios, n=4)
        print(f"| {name} | {count} | {half:.1f} | {low:.1f} to {high:.1f} | {1e3 * statistics.median(seconds):.1f} |")


def one_by_one(model: nn.Module, batch: Batch) -> list[Tensor]:
    """Return sums of squared gradients as a loop over single samples gives them."""
    model.eval()
    total = [torch.zeros_like(p) for p in model.parameters()]
    for i in range(batch.size):
        model.zero_grad()
        functional.cross_entropy(model(batch.inputs[i : i + 1]), batch.targets[i : i + 1]).backward()
        for t, p in zip(total, model.parameters(), strict=True):
            assert p.grad is not None
            t += p.grad**2
    return total


def main() -> None:
    """Run both measurements and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--model", choices=("resnet18", "cnn"), default="resnet18")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    print(f"{machine(options.threads)}; {options.model}, 32x32, batch {options.batch}")
    torch.manual_seed(0)
    fisher(128, 2 * options.rounds + 1)
    report(measure(MODELS[options.model]((3, 32, 32), 10), options.batch, options.rounds))


if __name__ == "__main__":
    main()

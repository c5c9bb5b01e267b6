"""What a step costs: our steps, a bare two-pass loop and pytorch_optimizer's SAM, over a bare SGD step.

Every contender has its own copy of the same network and batch. In a round each takes one step, in an order that is
shuffled anew; a round's times are divided by that round's bare SGD step. The table gives the median ratio over the
rounds and its quartiles, so that a slow spell of the machine hits all alike. Run it with

    python benchmarks/step_overhead.py --rounds 40 --threads 1
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import pytorch_optimizer
import torch
from loops import DECAY, LR, MOMENTUM, RHO, base_of, sam_step, sgd_step
from torch import Tensor, nn
from torch.nn import functional
from turns import machine, quartiles, timed, turns

import sharpkit
from sharpkit.engine.runtime import keep_freed_memory
from sharpkit.models import MODELS

StepFunction = Callable[[Tensor, Tensor], object]


def images(batch: int, channels: int, side: int) -> tuple[Tensor, Tensor]:
    """Return random images (B, C, H, W) and classes (B,)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, channels, side, side, generator=generator), torch.randint(
        0, 10, (batch,), generator=generator
    )


def peer_sam(model: nn.Module) -> StepFunction:
    """Return pytorch_optimizer's SAM, used as its documentation shows."""
    optimizer = pytorch_optimizer.SAM(
        model.parameters(), torch.optim.SGD, rho=RHO, lr=LR, momentum=MOMENTUM, weight_decay=DECAY
    )

    def step(x: Tensor, y: Tensor) -> None:
        functional.cross_entropy(model(x), y).backward()
        optimizer.first_step(zero_grad=True)
        functional.cross_entropy(model(x), y).backward()
        optimizer.second_step(zero_grad=True)

    return step


def ours(recipe: str) -> Callable[[nn.Module], StepFunction]:
    """Return a maker of our step with a recipe."""

    def make(model: nn.Module) -> StepFunction:
        optimizer = sharpkit.SharpnessAware(model, base_of(model), recipe, loss=functional.cross_entropy)
        return lambda x, y: optimizer.step((x, y))

    return make


CONTENDERS: dict[str, Callable[[nn.Module], StepFunction]] = {
    "bare SGD loop": lambda model: sgd_step(model, base_of(model)),
    "sharpkit sgd": ours("sgd"),
    "bare two-pass SAM loop": lambda model: sam_step(model, base_of(model)),
    "pytorch_optimizer SAM": peer_sam,
    "sharpkit sam": ours(f"sam:rho={RHO}"),
    "sharpkit asam": ours("asam"),
    "sharpkit sampa, one device": ours("sampa:lam=0.2"),
    "sharpkit sampa+asam, one device": ours("sampa+asam"),
}


def measure(model: nn.Module, batch: tuple[Tensor, Tensor], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every contender's step in every round, after two rounds of warm-up."""
    steps = {name: make(copy.deepcopy(model)) for name, make in CONTENDERS.items()}
    calls = {name: timed(lambda step=step: step(*batch), time.perf_counter) for name, step in steps.items()}
    return turns(calls, rounds, warm_up=2)


def report(title: str, times: dict[str, list[float]]) -> None:
    """Print a Markdown table of ratios."""
    reference = times["bare SGD loop"]
    print(f"\n### {title}\n\n| step | median, ms | over the bare SGD step | quartiles |\n|---|---|---|---|")
    for name, seconds in times.items():
        low, middle, high = quartiles(seconds, reference)
        print(
            f"| {name} | {1e3 * statistics.median(seconds):.2f} | {middle:.3f} | {low:.3f} to {high:.3f} |", flush=True
        )


def main() -> None:
    """Run both networks and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help="rounds for the small CNN; ResNet-18 takes a quarter")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resnet-batch", type=int, default=32)
    parser.add_argument("--only", choices=("cnn", "resnet"), default=None)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    print(machine(options.threads, "pytorch_optimizer"))
    torch.manual_seed(0)
    if options.only != "resnet":
        report("small CNN, digits, batch 128", measure(MODELS["cnn"]((1, 8, 8), 10), images(128, 1, 8), options.rounds))
    if options.only != "cnn":
        title = f"ResNet-18 (11.2 M parameters), 32x32, batch {options.resnet_batch}"
        model = MODELS["resnet18"]((3, 32, 32), 10)
        report(title, measure(model, images(options.resnet_batch, 3, 32), max(4, options.rounds // 4)))


if __name__ == "__main__":
    main()

"""Training on an accelerator: samples a second, SAM over SGD, model FLOPs utilisation, and whether data keep up.

CIFAR-like bytes lie on the device and are cropped, mirrored and normalised there. Every network trains in bf16, with
compiled passes and the channels last. The hand-tuned loop has the same batches, precision, memory format and compiled
code, and steps by lists of tensors. The usual way, `usual.py`, is torch's DataLoader over PIL images in float32.

In a round every contender takes the same number of steps, in an order that is shuffled anew, and the device is waited
for at the end. *Utilisation* is the FLOPs of the passes, as torch counts them, over what the device could do in that
time (`--peak`, in TFLOP/s, dense bf16: 989 for an H100 or H200). Run it with

    python benchmarks/gpu.py --peak 989
"""

from __future__ import annotations

import argparse
import copy
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import images
import torch
from loops import LR, RHO, base_of, sam_step, sgd_step
from throughput import Usual
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from turns import machine, quartiles, turns

from sharpkit.core.task import Batch
from sharpkit.engine.config import TrainConfig
from sharpkit.engine.session import Session, build

STEPS = {"sgd": sgd_step, "sam": sam_step}
Run = Callable[[], None]


class Cast(nn.Module):
    """A compiled network in bf16."""

    def __init__(self, net: nn.Module, *, compiles: bool) -> None:
        super().__init__()
        self.net = net
        self.fast = torch.compile(net, dynamic=False) if compiles else net

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs for images whose channels are last."""
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            return self.fast(x.to(memory_format=torch.channels_last))


def batches_of(session: Session) -> Iterator[Batch]:
    """Yield batches without end, whole ones only."""
    for number in itertools.count():
        yield from session.loader.epoch(number)


def ours(session: Session, steps: int) -> Run:
    """Return some steps as a run takes them."""
    batches = batches_of(session)

    def run() -> None:
        for batch in itertools.islice(batches, steps):
            session.optimizer.step((batch.inputs, batch.targets, batch.indices))
            session.scheduler.step()

    return run


def tuned(session: Session, recipe: str, steps: int, *, compiles: bool) -> Run:
    """Return some steps without anything that could be left out."""
    net = copy.deepcopy(session.model).to(memory_format=torch.channels_last).train()  # pyright: ignore
    model, batches = Cast(net, compiles=compiles), batches_of(session)
    step = STEPS[recipe](model, base_of(net))

    def run() -> None:
        for batch in itertools.islice(batches, steps):
            step(batch.inputs, batch.targets)

    return run


def loading(session: Session, steps: int) -> Run:
    """Return the making of some batches alone."""
    batches = batches_of(session)
    return lambda: [None for _ in itertools.islice(batches, steps)] and None


def seconds(run: Run, device: torch.device) -> float:
    """Return how long something takes until the device is done."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start


def flops(session: Session) -> int:
    """Return the FLOPs of a forward and a backward pass of one sample."""
    batch = next(session.loader.epoch(0, stop=1)).select_range(0, 2)
    net = copy.deepcopy(session.model).train()
    with FlopCounterMode(display=False) as counter:
        nn.functional.cross_entropy(net(batch.inputs), batch.targets).backward()
    return counter.get_total_flops() // 2


def measure(model: str, batch: int, options: argparse.Namespace) -> None:
    """Print the rows of one network and batch."""
    compiles, device = not options.no_compile, torch.device(options.device)
    runs: dict[str, Run] = {}
    sessions: dict[str, Session] = {}
    for recipe in STEPS:
        sessions[recipe] = session = build(
            TrainConfig(
                opt=recipe if recipe == "sgd" else f"{recipe}:rho={RHO}",
                data=f"{images.__file__}:bytes_like",
                model=model,
                lr=LR,
                batch_size=batch,
                val_frac=0.0,
                epochs=1000,
                device=options.device,
                amp="bf16",
                compile=compiles,
                cuda_graphs=options.cuda_graphs,
            )
        )
        session.model.train()
        runs[recipe] = ours(session, options.steps)
        runs[f"{recipe}, hand-tuned"] = tuned(session, recipe, options.steps, compiles=compiles)
    runs["loader alone"] = loading(sessions["sgd"], options.steps)
    usual = Usual("bytes_like", model, batch, "sgd", options.workers, torch.get_num_threads(), options.device)
    times = turns({name: partial(seconds, run, device) for name, run in runs.items()}, options.rounds)
    count = options.steps * batch
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    once = flops(sessions["sgd"])
    usual()
    medians["sgd, usual way"] = usual()[0] * count / len(sessions["sgd"].splits.train)
    usual.close()
    for name, middle in medians.items():
        against = "sam" if name.startswith("sam") else "sgd"
        passes = 0 if name == "loader alone" else 2 if against == "sam" else 1
        used = passes * once * count / middle / (1e12 * options.peak) if options.peak else 0.0
        row = (model, batch, name, f"{count / middle:,.0f}", f"{middle / medians[against]:.3f}", f"{used:.3f}")
        print(f"| {' | '.join(map(str, row))} |", flush=True)
    low, middle, high = quartiles(times["sam"], times["sgd"])
    print(f"| {model} | {batch} | SAM over SGD |  | {middle:.3f} ({low:.3f} to {high:.3f}) |  |", flush=True)


def main() -> None:
    """Run all networks and batches and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--models", nargs="+", default=["resnet18", "wrn28-10", "vit-s16"])
    parser.add_argument("--batches", nargs="+", type=int, default=[128, 1024])
    parser.add_argument("--steps", type=int, default=16, help="of a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peak", type=float, default=0.0, help="TFLOP/s of the device")
    parser.add_argument("--workers", type=int, default=4, help="of the usual way")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--cuda-graphs", action="store_true")
    options = parser.parse_args()
    name = f"{torch.cuda.get_device_name()}, " if options.device.startswith("cuda") else ""
    print(f"{name}{machine(torch.get_num_threads())}\n")
    print("| network | batch | loop | samples/s | time over ours | utilisation |\n|---|---|---|---|---|---|")
    for model, batch in itertools.product(options.models, options.batches):
        measure(model, batch, options)


if __name__ == "__main__":
    main()

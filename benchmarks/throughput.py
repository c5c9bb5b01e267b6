"""Samples a second of whole training epochs: our data path and step, a hand-tuned loop, and the usual way.

All train the same network on the same images with random crops and flips. The hand-tuned loop holds the data as one
tensor, augments whole batches, steps by lists of tensors, has our memory format and never waits for a loss; it runs in
our process, so that it has our allocator too. The usual way, `usual.py`, is torch's DataLoader without workers, its
default, and with two, over a dataset of PIL images and a transform of single images. The transform is torchvision's
where that can be imported; else it is written here with PIL and NumPy.

In a round each takes one epoch, in an order that is shuffled anew. The table gives the median over the rounds of their
time over ours, and its quartiles, by the clock and in time of the processor, workers included. All have the same number
of threads. Run it with

    python benchmarks/throughput.py --rounds 20 --threads 1
"""

from __future__ import annotations

import argparse
import copy
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import images
import torch
from images import transform_of
from loops import LR, RHO, StepFunction, base_of, sam_step, sgd_step
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR
from turns import machine, quartiles, turns

from sharpkit.data.dataset import Dataset as Images
from sharpkit.engine.config import TrainConfig
from sharpkit.engine.records import Records
from sharpkit.engine.session import Session, build

Times = tuple[float, float]
"""Seconds of the clock, and of the processor."""

Epoch = Callable[[], Times]


def ours(session: Session) -> Callable[[], None]:
    """Return an epoch as `Fit` runs it."""
    numbers = iter(range(10**9))

    def epoch() -> None:
        records = Records()
        for step, batch in enumerate(session.loader.epoch(next(numbers))):
            report = session.optimizer.step((batch.inputs, batch.targets, batch.indices))
            session.scheduler.step()
            records.add(step, report, batch)
        records.collect()

    return epoch


def hand_tuned(
    step: StepFunction, scheduler: LambdaLR, data: Images, batch: int, *, channels_last: bool
) -> Callable[[], None]:
    """Return an epoch without anything that could be left out."""
    inputs, targets, pad = data.train.inputs, data.train.targets, data.pad
    count, channels, height, width = inputs.shape
    padded = functional.pad(inputs, (pad,) * 4)
    form = torch.channels_last if channels_last else torch.contiguous_format

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(count)
        for start in range(0, count, batch):
            rows = order[start : start + batch]
            corner = torch.randint(0, 2 * pad + 1, (2, len(rows), 1))
            down, across = corner[0] + torch.arange(height), corner[1] + torch.arange(width)
            across = torch.where(torch.rand(len(rows), 1) < 0.5, across.flip(1), across)
            places = rows[:, None, None, None], torch.arange(channels)[None, :, None, None]
            cropped = padded[*places, down[:, None, :, None], across[:, None, None, :]]
            yield cropped.contiguous(memory_format=form), targets[rows]

    def epoch() -> None:
        total = torch.zeros(())
        for x, y in batches():
            total += step(x, y)
            scheduler.step()
        total.item()

    return epoch


class Usual:
    """The usual way, in a process of its own.

    Args:
        arguments: Of `usual.py`.
    """

    def __init__(self, *arguments: object) -> None:
        script = str(Path(__file__).with_name("usual.py"))
        words = [sys.executable, script, *map(str, arguments)]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self) -> Times:
        """Train an epoch."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        wall, processor = self._process.stdout.readline().split()
        return float(wall), float(processor)

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def both_times(epoch: Callable[[], None]) -> Epoch:
    """Return an epoch in this process with its times."""

    def run() -> Times:
        wall, processor = time.perf_counter(), time.process_time()
        epoch()
        return time.perf_counter() - wall, time.process_time() - processor

    return run


WORKERS = (0, 2)
TUNED: dict[str, Callable[[nn.Module, torch.optim.Optimizer], StepFunction]] = {"sgd": sgd_step, "sam": sam_step}


def contenders(
    data: str, model: str, batch: int, recipe: str, threads: int, layout: Literal["auto", "on", "off"]
) -> tuple[dict[str, Epoch], str, int]:
    """Return an epoch of each, the memory format, and the number of samples in an epoch."""
    config = TrainConfig(
        opt=recipe if recipe == "sgd" else f"{recipe}:rho={RHO}",
        data=f"{images.__file__}:{data}",
        model=model,
        lr=LR,
        batch_size=batch,
        val_frac=0.0,
        epochs=1000,
        threads=str(threads),
        channels_last=layout,
        device="cpu",
    )
    session = build(config)

    net = copy.deepcopy(session.model).train()
    base = base_of(net)
    session.model.train()
    layout = session.config.channels_last
    tuned = hand_tuned(
        TUNED[recipe](net, base),
        LambdaLR(base, lambda _: 1.0),
        session.dataset,
        batch,
        channels_last=layout == "on",
    )
    epochs: dict[str, Epoch] = {"sharpkit": both_times(ours(session)), "hand-tuned loop": both_times(tuned)}
    for workers in WORKERS:
        epochs[f"usual way, {workers} workers"] = Usual(data, model, batch, recipe, workers, threads)
    return epochs, layout, len(session.splits.train)


def measure(epochs: dict[str, Epoch], rounds: int) -> dict[str, list[Times]]:
    """Return the times of every contender's epoch in every round, after one round of warm-up."""
    times = turns(epochs, rounds)
    for epoch in epochs.values():
        if isinstance(epoch, Usual):
            epoch.close()
    return times


def report(title: str, recipe: str, count: int, times: dict[str, list[Times]]) -> None:
    """Print rows of a Markdown table."""
    for name, taken in times.items():
        speed = count / statistics.median(wall for wall, _ in taken)
        told = [_ratio(taken, times["sharpkit"], which) for which in (0, 1)]
        print(f"| {title} | {recipe} | {name} | {speed:,.0f} | {' | '.join(told)} |", flush=True)


def _ratio(theirs: list[Times], ours: list[Times], which: int) -> str:
    low, middle, high = quartiles([a[which] for a in theirs], [b[which] for b in ours])
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    """Run all networks and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="epochs of the CNN on small images; others take fewer")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--channels-last", choices=("auto", "on", "off"), default="auto")
    parser.add_argument("--only", choices=("digits", "cifar", "resnet"), default=None)
    options = parser.parse_args()
    transform = type(transform_of(8, 1)).__name__
    print(
        f"{machine(options.threads, 'pillow')}, transform: "
        f"{'PIL and NumPy, no torchvision' if transform == 'ByHand' else 'torchvision'}\n"
    )
    print("| what | optimizer | loop | samples/s | time over ours (quartiles) | processor time over ours (quartiles) |")
    print("|---|---|---|---|---|---|")
    cases = {
        "digits": ("digits_like", "cnn", 128, options.rounds, "small CNN, 1x8x8, batch 128"),
        "cifar": ("cifar_like", "cnn", 128, max(4, options.rounds // 3), "small CNN, 3x32x32, batch 128"),
        "resnet": ("few_cifar_like", "resnet18", 32, max(4, options.rounds // 5), "ResNet-18, 3x32x32, batch 32"),
    }
    for name, (data, model, batch, rounds, title) in cases.items():
        if options.only in (None, name):
            for recipe in ("sgd", "sam"):
                epochs, layout, count = contenders(data, model, batch, recipe, options.threads, options.channels_last)
                report(f"{title}, channels-last {layout}", recipe, count, measure(epochs, rounds))


if __name__ == "__main__":
    main()

"""Samples a second of whole training epochs: our data path and step, a hand-tuned loop, and the usual way.

All train the same network on the same images with random crops and flips. The hand-tuned loop holds the data as one
tensor, augments whole batches, steps by lists of tensors, has our memory format and never waits for a loss. The usual
way is torch's DataLoader with two workers over a dataset of PIL images and a transform of single images, SAM parameter
by parameter, and `loss.item()` in every step. The transform is torchvision's where that can be imported; else it is
written here with PIL and NumPy.

In a round each takes one epoch, in an order that is shuffled anew. The table gives the median over the rounds of our
speed over theirs, and its quartiles. All have the same number of threads and the same allocator. Run it with

    python benchmarks/throughput.py --rounds 20 --threads 1
"""

from __future__ import annotations

import argparse
import copy
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Literal

import images
import torch
from images import Pictures, transform_of
from loops import LR, RHO, StepFunction, base_of, sam_step, sgd_step
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from sharpkit.data.dataset import Dataset as Images
from sharpkit.engine.config import TrainConfig
from sharpkit.engine.records import Records
from sharpkit.engine.session import Session, build

Epoch = Callable[[], None]


def ours(session: Session) -> Epoch:
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


def hand_tuned(step: StepFunction, scheduler: LambdaLR, data: Images, batch: int, *, channels_last: bool) -> Epoch:
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


def usual(step: StepFunction, scheduler: LambdaLR, data: Images, batch: int) -> Epoch:
    """Return an epoch over a DataLoader."""
    loader = DataLoader(Pictures(data), batch, shuffle=True, num_workers=2)

    def epoch() -> None:
        total = 0.0
        for x, y in loader:
            total += step(x, y).item()
            scheduler.step()

    return epoch


def usual_sam_step(model: nn.Module, base: torch.optim.Optimizer) -> StepFunction:
    """Return SAM parameter by parameter, as the most used port does it."""
    params = list(model.parameters())

    def step(x: Tensor, y: Tensor) -> Tensor:
        base.zero_grad()
        loss = functional.cross_entropy(model(x), y)
        loss.backward()
        with torch.no_grad():
            norm = torch.norm(torch.stack([p.grad.norm(p=2) for p in params]), p=2)  # pyright: ignore
            saved = {p: p.data.clone() for p in params}
            for p in params:
                p.add_(p.grad * (RHO / (norm + 1e-12)))  # pyright: ignore
        base.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        for p in params:
            p.data = saved[p]
        base.step()
        return loss.detach()

    return step


TUNED: dict[str, Callable[[nn.Module, torch.optim.Optimizer], StepFunction]] = {"sgd": sgd_step, "sam": sam_step}
USUAL: dict[str, Callable[[nn.Module, torch.optim.Optimizer], StepFunction]] = {"sgd": sgd_step, "sam": usual_sam_step}


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

    def rival(usual_way: bool) -> tuple[StepFunction, LambdaLR]:
        net = copy.deepcopy(session.model).train()
        if usual_way:
            net = net.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
        base = base_of(net)
        step = (USUAL if usual_way else TUNED)[recipe](net, base)
        return step, LambdaLR(base, lambda _: 1.0)

    session.model.train()
    layout = session.config.channels_last
    epochs = {
        "sharpkit": ours(session),
        "hand-tuned loop": hand_tuned(*rival(False), session.dataset, batch, channels_last=layout == "on"),
        "usual way": usual(*rival(True), session.dataset, batch),
    }
    return epochs, layout, len(session.splits.train)


def measure(epochs: dict[str, Epoch], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every contender's epoch in every round, after one round of warm-up."""
    times: dict[str, list[float]] = {name: [] for name in epochs}
    order = list(epochs)
    shuffler = random.Random(0)
    for number in range(rounds + 1):
        shuffler.shuffle(order)
        for name in order:
            start = time.perf_counter()
            epochs[name]()
            if number:
                times[name].append(time.perf_counter() - start)
    return times


def report(title: str, recipe: str, count: int, times: dict[str, list[float]]) -> None:
    """Print rows of a Markdown table."""
    for name, seconds in times.items():
        ratios = [theirs / mine for theirs, mine in zip(seconds, times["sharpkit"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        speed = count / statistics.median(seconds)
        print(f"| {title} | {recipe} | {name} | {speed:,.0f} | {middle:.3f} | {low:.3f} to {high:.3f} |", flush=True)


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
        f"{platform.platform()}, {options.threads} thread(s), Python {platform.python_version()}, torch "
        f"{torch.__version__}, Pillow {version('pillow')}, transform: "
        f"{'PIL and NumPy, no torchvision' if transform == 'ByHand' else 'torchvision'}\n"
    )
    print("| what | optimizer | loop | samples/s | sharpkit is faster by | quartiles |\n|---|---|---|---|---|---|")
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

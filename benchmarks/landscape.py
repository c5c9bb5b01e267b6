"""Surfaces: ours, the usual loop, loss-landscapes, landscaper and loss-landscape-3d on the same model and samples.

Two networks: the CNN of 102,000 parameters of `hessian.py` on 512 digits, whose time is nearly all spent in
convolutions, and the default `cnn` of `sharpkit train` on 128 colour images of 32 x 32. The grid has 11 x 11 points. In
a round every contender evaluates the whole grid once, in shuffled order, with all samples at once and with the batch
size that is best for it, found before. Times are medians of processor time, which other work on the machine disturbs
least, and ratios are medians of the ratios to ours in the same round. Ours is the whole call, with what it measures and
checks. The usual loop is written from the description of Li et al. (2018): parameters are replaced by w + a d1 + b d2,
and batches are evaluated one after the other, with the loss and the number of hits read back from each. The others run
in a process of their own, whose memory allocator is as the system has it; the usual loop runs with our settings too.

Of ResNet-18 (11.2 million parameters) single points are timed, and the rate of its arithmetic is
compared with that of the fastest of its convolutions alone. Run it with

    python benchmarks/landscape.py --rounds 3
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from importlib.util import find_spec
from multiprocessing import get_context
from types import ModuleType
from typing import Any

import loss_landscapes
import numpy as np
import torch
from loss_landscape_3d.calculator import LossLandscapeCalculator
from loss_landscapes.metrics.metric import Metric
from networks import network, trained
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from turns import machine

from sharpkit.data import DATASETS
from sharpkit.diagnostics import landscape, random_plane
from sharpkit.diagnostics.surfaces.plane import Plane
from sharpkit.diagnostics.surfaces.surface import opened_surface
from sharpkit.engine.runtime import keep_freed_memory
from sharpkit.models import MODELS

SIDE = 11
GRID = np.linspace(-1, 1, SIDE)
BATCHES = (128, 64, 32)
Data = tuple[Tensor, Tensor]
Contender = Callable[[nn.Module, Plane, Data, int, Sequence[float]], np.ndarray]
"""`(model, plane, data, batch size, coordinates) -> losses`, with a row for every coordinate along d2."""


def ours(model: nn.Module, plane: Plane, data: Data, batch: int, grid: Sequence[float], **options: Any) -> np.ndarray:
    return landscape(
        model, functional.cross_entropy, [data], x=grid, y=grid, plane=plane, check=False, **options
    ).loss  # fmt: skip


def bf16(model: nn.Module, plane: Plane, data: Data, batch: int, grid: Sequence[float]) -> np.ndarray:
    return ours(model, plane, data, batch, grid, amp="bf16")


def usual(model: nn.Module, plane: Plane, data: Data, batch: int, grid: Sequence[float]) -> np.ndarray:
    start = [p.detach().clone() for p in model.parameters()]
    losses = np.zeros((len(grid), len(grid)))
    for j, b in enumerate(grid):
        for i, a in enumerate(grid):
            losses[j, i] = at_point(model, start, plane, data, batch, float(a), float(b))
    set_weights(model, start)
    return losses


def at_point(model: nn.Module, start: list[Tensor], plane: Plane, data: Data, batch: int, a: float, b: float) -> float:
    set_weights(model, [w + (d1 * a + d2 * b) for w, d1, d2 in zip(start, *plane.axes, strict=True)])
    return mean_loss(model, data, batch)


def set_weights(model: nn.Module, weights: list[Tensor]) -> None:
    for p, w in zip(model.parameters(), weights, strict=True):
        p.data = w


def mean_loss(model: nn.Module, data: Data, batch: int) -> float:
    model.eval()
    total, hits = 0.0, 0
    with torch.no_grad():
        for x, y in zip(data[0].split(batch), data[1].split(batch), strict=True):
            outputs = model(x)
            total += functional.cross_entropy(outputs, y).item() * len(x)
            hits += int(outputs.max(1)[1].eq(y).sum().item())
    return total / len(data[0])


class Batched(Metric):
    """loss-landscapes' own metric takes one batch; this one takes several."""

    def __init__(self, data: Data, batch: int) -> None:
        super().__init__()
        self.data, self.batch = data, batch

    def __call__(self, model_wrapper: Any) -> float:
        """Return the mean loss."""
        total = 0.0
        for x, y in zip(self.data[0].split(self.batch), self.data[1].split(self.batch), strict=True):
            total += functional.cross_entropy(model_wrapper.forward(x), y).item() * len(x)
        return total / len(self.data[0])


def loss_landscapes_plane(model: nn.Module, plane: Plane, data: Data, batch: int, grid: Sequence[float]) -> np.ndarray:
    model.eval()
    with torch.no_grad():
        return loss_landscapes.random_plane(
            model, Batched(data, batch), distance=1, steps=len(grid), normalization="filter", deepcopy_model=True
        )


def landscaper_surface(model: nn.Module, plane: Plane, data: Data, batch: int, grid: Sequence[float]) -> np.ndarray:
    model.eval()
    directions = [[t.clone() for t in axis] for axis in plane.axes]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return landscaper().compute_loss_landscape(
            model, data, directions, lambda moved, held: mean_loss(moved, held, batch), steps=len(grid), distance=1.0,
            dim=2, device="cpu",
        )[0]  # fmt: skip


def landscaper() -> Any:
    """Import landscaper's surfaces without its package's first lines, which need libraries of topology."""
    if "landscaper" not in sys.modules:
        package = ModuleType("landscaper")
        spec = find_spec("landscaper")
        assert spec is not None
        package.__path__ = list(spec.submodule_search_locations or ())
        sys.modules["landscaper"] = package
    from landscaper import compute

    return compute


def three_d(model: nn.Module, plane: Plane, data: Data, batch: int, grid: Sequence[float]) -> np.ndarray:
    loader = list(zip(data[0].split(batch), data[1].split(batch), strict=True))
    directions = [dict(zip(plane.names, axis, strict=True)) for axis in plane.axes]
    calculator = LossLandscapeCalculator(model, loader, nn.CrossEntropyLoss())
    state = {name: value.clone() for name, value in model.state_dict().items()}
    return calculator.calculate(grid, grid, *directions, state).T


CONTENDERS: dict[str, Contender] = {
    "sharpkit": ours,
    "sharpkit, bf16": bf16,
    "the usual loop, our allocator": usual,
    "the usual loop": usual,
    "loss-landscapes": loss_landscapes_plane,
    "landscaper": landscaper_surface,
    "loss-landscape-3d": three_d,
}


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


@dataclass
class Row:
    """A contender with a batch size; 0 measures."""

    name: str
    batch: int
    seconds: list[float] = field(default_factory=list[float])
    losses: np.ndarray | None = None

    @property
    def own(self) -> bool:
        """Whether it runs in a process with the system's allocator settings."""
        return self.name not in HERE


HERE = ("sharpkit", "sharpkit, bf16", "the usual loop, our allocator")
TASK: dict[str, Any] = {}
"""Model, plane and data of this process."""


def prepare(kind: str, epochs: int, threads: int, samples: int = 128) -> None:
    """Make the network and its samples, the same in every process."""
    torch.set_num_threads(threads)
    if kind == "digits":
        train = DATASETS["digits"]().train
        torch.manual_seed(0)
        TASK["model"] = trained(network(), train.inputs, train.targets, epochs)
        TASK["data"] = train.inputs[:512], train.targets[:512]
    else:
        torch.manual_seed(0)
        TASK["model"] = MODELS[kind]((3, 32, 32), 10).eval()
        with torch.no_grad():  # a peer divides by the norm of every tensor, and new biases are zero
            for p in TASK["model"].parameters():
                p.add_(0.01 * torch.randn_like(p))
        TASK["data"] = torch.randn(samples, 3, 32, 32), torch.randint(10, (samples,))
    TASK["plane"] = random_plane(TASK["model"])


def evaluated(name: str, batch: int, grid: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the time of a contender in this process, and its losses."""
    return timed(lambda: CONTENDERS[name](TASK["model"], TASK["plane"], TASK["data"], batch, grid))


def small(kind: str, options: argparse.Namespace) -> None:
    """Print the table of a small network."""
    prepare(kind, options.epochs, options.threads)
    with ProcessPoolExecutor(1, get_context("spawn"), prepare, (kind, options.epochs, options.threads)) as other:

        def run(row: Row, grid: np.ndarray = GRID) -> tuple[float, np.ndarray]:
            if row.own:
                return other.submit(evaluated, row.name, row.batch, grid).result()
            return evaluated(row.name, row.batch, grid)

        def best(name: str) -> int:
            few = GRID[::5]
            return min(BATCHES, key=lambda size: min(run(Row(name, size), few)[0] for _ in range(2)))

        count = len(TASK["data"][0])
        rows = [Row(name, 0) for name in HERE[:2]]
        rows += [Row(name, size) for name in list(CONTENDERS)[2:] for size in dict.fromkeys((count, best(name)))]
        shuffler = random.Random(0)
        for _ in range(options.rounds):
            for row in shuffler.sample(rows, len(rows)):
                taken, row.losses = run(row)
                row.seconds.append(taken)
    report(rows, count)


def report(rows: list[Row], count: int) -> None:
    reference = rows[0].losses
    assert reference is not None
    size = sum(p.numel() for p in TASK["model"].parameters())
    print(f"\n### {size:,} parameters, {SIDE} x {SIDE} points, {count} samples\n")
    print("| who | batch | CPU ms a point | over ours (quartiles) | highest loss | largest relative difference |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        assert row.losses is not None
        ratios = sorted(a / b for a, b in zip(row.seconds, rows[0].seconds, strict=True))
        low, mid, high = np.percentile(ratios, [25, 50, 75])
        # The others have directions or units of their own.
        same = row.name not in ("loss-landscapes", "landscaper")
        off = f"{np.max(np.abs(row.losses / reference - 1)):.1e}" if same else ""
        print(
            f"| {row.name} | {row.batch or 'measured'} | {1e3 * statistics.median(row.seconds) / SIDE**2:.1f} | "
            f"{mid:.2f} ({low:.2f} to {high:.2f}) | {np.nanmax(row.losses):.4g} | {off} |",
            flush=True,
        )


def roof(threads_batch: int = 64) -> float:
    """Return the rate of the fastest of ResNet-18's convolutions alone, operations a second of processor time."""
    rates: list[float] = []
    for width, side in ((64, 32), (128, 16), (256, 8), (512, 4)):
        x = torch.randn(threads_batch, width, side, side).contiguous(memory_format=torch.channels_last)
        w = torch.randn(width, width, 3, 3).contiguous(memory_format=torch.channels_last)
        work = 2 * threads_batch * side * side * width * width * 9
        with torch.no_grad():
            functional.conv2d(x, w, padding=1)
            rates.append(max(work / timed(lambda x=x, w=w: functional.conv2d(x, w, padding=1))[0] for _ in range(5)))
    return max(rates)


def usual_point(batch: int, a: float, b: float) -> tuple[float, float]:
    """Return the time of a point in the usual way, and its loss."""
    model, data = TASK["model"], TASK["data"]
    if "start" not in TASK:
        TASK["start"] = [p.detach().clone() for p in model.parameters()]
    return timed(lambda: at_point(model, TASK["start"], TASK["plane"], data, batch, a, b))


def large(options: argparse.Namespace) -> None:
    """Print the table of ResNet-18."""
    asked = ("resnet18", options.epochs, options.threads, options.samples)
    prepare(*asked)
    model, data, plane = TASK["model"], TASK["data"], TASK["plane"]
    start = [p.detach().clone() for p in model.parameters()]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(data[0][:8])
    work = counter.get_total_flops() / 8 * options.samples
    points = [(0.1 * k, -0.05 * k) for k in range(options.points)]
    times: dict[str, list[float]] = {}
    losses: dict[str, list[float]] = {}
    peak: list[float] = []

    def note(name: str, evaluate: Callable[[float, float], tuple[float, float]]) -> None:
        found = [evaluate(*p) for p in points]
        times.setdefault(name, []).append(sum(t for t, _ in found) / len(points))
        losses[name] = [value for _, value in found]

    sizes = dict.fromkeys(min(size, options.samples) for size in (options.samples, 128, 64))
    with ProcessPoolExecutor(1, get_context("spawn"), prepare, asked) as other:
        for _ in range(options.rounds):
            peak.append(roof())
            for size in sizes:
                note(f"the usual loop, batch {size}", lambda a, b, n=size: other.submit(usual_point, n, a, b).result())
                note(f"the usual loop, our allocator, batch {size}", lambda a, b, n=size: usual_point(n, a, b))
            set_weights(model, [w.clone() for w in start])
            for name, amp in (("sharpkit", "off"), ("sharpkit, bf16", "bf16")):
                with opened_surface(model, functional.cross_entropy, [data], plane, amp=amp, points=200) as surface:
                    note(name, lambda a, b, s=surface: timed(lambda: s.at(a, b).loss))
                    how = surface.how
    highest = statistics.median(peak)
    print(f"\n### ResNet-18, {options.samples} samples; ours: {how}; roof {highest / 1e9:.0f} GFLOP/s\n")
    print("| who | CPU s a point, median | over ours (quartiles) | part of the roof | largest relative difference |")
    print("|---|---|---|---|---|")
    for name in ["sharpkit", *(name for name in times if name != "sharpkit")]:
        ratios = [a / b for a, b in zip(times[name], times["sharpkit"], strict=True)]
        low, mid, high = np.percentile(ratios, [25, 50, 75])
        off = max(abs(a / b - 1) for a, b in zip(losses[name], losses["sharpkit"], strict=True))
        seconds = statistics.median(times[name])
        print(
            f"| {name} | {seconds:.2f} | {mid:.2f} ({low:.2f} to {high:.2f}) | {work / seconds / highest:.2f} | "
            f"{off:.1e} |",
            flush=True,
        )


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    kinds = ("digits", "cnn", "resnet18")
    parser.add_argument("--only", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--samples", type=int, default=256, help="of ResNet-18")
    parser.add_argument("--points", type=int, default=2, help="of ResNet-18")
    parser.add_argument("--quick", action="store_true", help="one round, a network hardly trained")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.epochs, options.samples, options.points = 1, 1, 64, 1
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    print(machine(options.threads, "loss-landscapes", "landscaper", "loss-landscape-3d"))
    for kind in options.only:
        TASK.clear()
        if kind == "resnet18":
            large(options)
        else:
            small(kind, options)


if __name__ == "__main__":
    main()

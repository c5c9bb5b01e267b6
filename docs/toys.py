"""Surfaces of two parameters as models, walks on them that write down all that a recipe does, and maps of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

import sharpkit

# Okabe and Ito's colours, which all common kinds of colour vision tell apart; every line also has its own style.
BLUE, ORANGE, GREEN, BLACK = "#0072B2", "#D55E00", "#009E73", "#000000"
COLOURS, STYLES, MARKERS = (BLUE, GREEN, ORANGE), ("--", "-.", "-"), ("s", "D", "^")

Surface = Callable[[Tensor], Tensor]
"""(..., 2) -> (...)."""


def product(w: Tensor) -> Tensor:
    """Half the squared error of the two-layer linear network w1 w2 on the target 1."""
    return 0.5 * (w[..., 0] * w[..., 1] - 1) ** 2


class Position(nn.Module):
    """A point of the plane as a model; its output is the height of the surface there, tilted by every input."""

    def __init__(self, surface: Surface, start: tuple[float, float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(start, dtype=torch.float64))
        self.surface = surface
        self.seen: list[tuple[Tensor, Tensor]] = []  # where it was evaluated, and with which inputs

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen.append((self.weight.detach().clone(), inputs))
        return self.surface(self.weight) + inputs @ self.weight


def height(outputs: Tensor, targets: Tensor, reduction: str) -> Tensor:
    """The loss is the output; there is nothing to compare it with."""
    return outputs


@dataclass
class Path2D:
    """What a recipe did: where it was, where it looked, and what that cost."""

    positions: list[Tensor] = field(default_factory=list)  # before each step and after the last
    looked: list[Tensor] = field(default_factory=list)  # w + epsilon of each perturbed step, of the first shard
    found: list[float] = field(default_factory=list)  # mean height there, of all shards
    shards: list[Tensor] = field(default_factory=list)  # w + epsilon of every shard
    losses: list[float] = field(default_factory=list)
    critical: list[float] = field(default_factory=list)  # gradients one after the other, summed up to each loss
    perturbed: list[bool] = field(default_factory=list)  # of each step
    notes: list[dict[str, float]] = field(default_factory=list)  # of each step


def walk(
    opt: str,
    surface: Surface,
    start: tuple[float, float],
    steps: int,
    lr: float,
    momentum: float = 0.0,
    tilts: Tensor | None = None,
    schedule: Callable[[int], float] | None = None,
) -> Path2D:
    """Take steps with a recipe and write down every point that it evaluates.

    Args:
        tilts: What every sample adds to the gradient, (steps, samples, 2); one sample and nothing by default.
        schedule: Factor of the learning rate by step.
    """
    tilts = torch.zeros(steps, 1, 2) if tilts is None else tilts
    model = Position(surface, start)
    base = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    scheduler = torch.optim.lr_scheduler.LambdaLR(base, schedule or (lambda _: 1.0))
    optimizer = sharpkit.SharpnessAware(model, base, opt, loss=height, total_steps=steps, steps_per_epoch=1)
    path, spent = Path2D(), 0.0
    for tilt in tilts.double():
        here = model.weight.detach().clone()
        model.seen.clear()
        report = optimizer.step((tilt, torch.zeros(len(tilt))))
        scheduler.step()
        path.positions.append(here)
        path.losses.append(float(surface(here)))
        path.critical.append(spent)
        path.perturbed.append(report.perturbed)
        path.notes.append({name: float(value) for name, value in report.notes.items()})
        away = [(w, x) for w, x in model.seen if report.perturbed and not torch.equal(w, here)]
        if away:
            path.looked.append(away[0][0])
            path.shards += [w for w, _ in away]
            path.found.append(float(sum((surface(w) + x @ w).sum() for w, x in away)) / len(tilt))
        spent += report.critical
    path.positions.append(model.weight.detach().clone())
    path.losses.append(float(surface(model.weight.detach())))
    path.critical.append(spent)
    return path


def reach(opt: str, surface: Surface, at: tuple[float, float]) -> tuple[Tensor, float]:
    """Return where a recipe looks from a point, and the height there, without moving."""
    path = walk(opt, surface, at, steps=1, lr=0.0)
    return path.looked[0], float(surface(path.looked[0]))


def neighbourhood(opt: str, at: tuple[float, float], slope: float = 1.0) -> Tensor:
    """Return where a recipe looks from a point when the gradient turns full circle, (n, 2)."""
    angles = torch.linspace(0, 2 * torch.pi, 90, dtype=torch.float64)
    slopes = slope * torch.stack([angles.cos(), angles.sin()], 1)
    return torch.stack([reach(opt, lambda w, s=s: w @ s, at)[0] for s in slopes])


def sharpness(path: Path2D) -> np.ndarray:
    """The largest Hessian eigenvalue of `product`, w1^2 + w2^2, at the minimum that gradient flow reaches from here.

    The flow keeps w1^2 - w2^2, and w1 w2 = 1 at its end.
    """
    w = torch.stack(path.positions)
    return ((w[:, 0] ** 2 - w[:, 1] ** 2) ** 2 + 4).sqrt().numpy()


def small_network() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """Return a network with a layer of batch norm, trained for a while, and the batch that it was trained on."""
    torch.manual_seed(0)
    inputs, targets = torch.randn(96, 6), torch.randint(3, (96,))
    model = nn.Sequential(nn.Linear(6, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 3))
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer = sharpkit.SharpnessAware(model, base, "sgd", loss=nn.functional.cross_entropy)
    for _ in range(30):
        optimizer.step((inputs, targets))
    return model, (inputs, targets)


def probe(opt: str, model: nn.Module, batch: tuple[Tensor, Tensor], seed: int = 0) -> tuple[dict[str, float], float]:
    """Return the length of a recipe's perturbation on every tensor, and the loss there, without moving."""
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    seen: list[tuple[dict[str, float], float]] = []

    def write_down(_: nn.Module, __: object, outputs: Tensor) -> None:
        if len(outputs) < len(batch[1]):  # a look at a few samples, for a mask
            return
        lengths = {name: float((p.detach() - weights[name]).norm()) for name, p in model.named_parameters()}
        seen.append((lengths, float(nn.functional.cross_entropy(outputs.detach(), batch[1]))))

    hook = model.register_forward_hook(write_down)
    base = torch.optim.SGD(model.parameters(), lr=0.0)
    loss = nn.functional.cross_entropy
    sharpkit.SharpnessAware(model, base, opt, loss=loss, seed=seed, steps_per_epoch=1).step(batch)
    hook.remove()
    return seen[-1]


def map_of(axes: Axes, surface: Surface, width: tuple[float, float], height_: tuple[float, float]) -> None:
    """Draw the surface in greys and its minima, where there is a curve of them, as a dotted line."""
    x, y = np.meshgrid(np.linspace(*width, 240), np.linspace(*height_, 240))
    z = surface(torch.from_numpy(np.stack([x, y], -1))).numpy()
    axes.contourf(x, y, np.sqrt(z), levels=14, cmap="Greys", alpha=0.55)
    ridge = np.linspace(max(width[0], 1 / height_[1]), width[1], 200)
    axes.plot(ridge, 1 / ridge, ":", color=BLACK, linewidth=1.2, label=r"minima: $w_1 w_2 = 1$")
    axes.set(xlabel=r"$w_1$", ylabel=r"$w_2$", xlim=width, ylim=height_)


def track(axes: Axes, path: Path2D, colour: str, style: str, marker: str, label: str | None, span: int = 5) -> None:
    """Draw a path: every step in a faint line, the mean over 2 span + 1 steps in a strong one, a mark at its end."""
    points = torch.stack(path.positions).numpy()
    means = [points[i - span : i + span + 1].mean(0) for i in range(span, len(points) - span)]
    axes.plot(*points.T, "-", color=colour, linewidth=0.6, alpha=0.45)
    axes.plot(*np.stack(means).T, style, color=colour, linewidth=2.2)
    axes.plot(*points[-1], marker, color=colour, markersize=9, markeredgecolor="white", zorder=5)
    if label:
        axes.plot([], [], style, color=colour, marker=marker, markersize=7, label=label)


START = (0.25, 2.6)
WIDTH, HEIGHT = (0.05, 2.1), (0.4, 2.8)


def two_panels(title: str) -> tuple[Figure, Axes, Axes]:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
    figure.suptitle(title, fontsize=11)
    return figure, left, right


def start_mark(axes: Axes, at: tuple[float, float] = START, label: str = "start") -> None:
    axes.plot(*at, "o", color="white", markeredgecolor=BLACK, markersize=6, zorder=6)
    axes.annotate(label, at, xytext=(-13, 8), textcoords="offset points", fontsize=9)


def sharpness_panel(axes: Axes, xlabel: str) -> None:
    axes.axhline(2, linestyle=":", color=BLACK, linewidth=1.2, label="flattest minimum")
    axes.set(xlabel=xlabel, ylabel="largest Hessian eigenvalue", ylim=(0, 7.8))
    axes.set_title("Sharpness of the minimum below", fontsize=10)
    axes.legend(loc="upper right", bbox_to_anchor=(1, 0.8), fontsize=9)

"""Draw the figures of the recipe pages with the recipes themselves, on surfaces of two parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

import sharpkit
from sharpkit.recipes.grammar import parameters

# Okabe and Ito's colours, which all common kinds of colour vision tell apart; every line also has its own style.
BLUE, ORANGE, GREEN, BLACK = "#0072B2", "#D55E00", "#009E73", "#000000"

Surface = Callable[[Tensor], Tensor]
"""(..., 2) -> (...)."""


def product(w: Tensor) -> Tensor:
    """Half the squared error of the two-layer linear network w1 w2 on the target 1."""
    return 0.5 * (w[..., 0] * w[..., 1] - 1) ** 2


class Position(nn.Module):
    """A point of the plane as a model; its output is the height of the surface there."""

    def __init__(self, surface: Surface, start: tuple[float, float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(start, dtype=torch.float64))
        self.surface = surface
        self.seen: list[Tensor] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen.append(self.weight.detach().clone())
        return self.surface(self.weight).expand(len(inputs))


def height(outputs: Tensor, targets: Tensor, reduction: str) -> Tensor:
    """The loss is the output; there is nothing to compare it with."""
    return outputs


@dataclass
class Path2D:
    """What a recipe did: where it was, where it looked, and what that cost."""

    positions: list[Tensor] = field(default_factory=list)  # before each step and after the last
    looked: list[Tensor] = field(default_factory=list)  # w + epsilon of each perturbed step
    losses: list[float] = field(default_factory=list)
    critical: list[float] = field(default_factory=list)  # gradients one after the other, summed up to each loss


def walk(
    opt: str, surface: Surface, start: tuple[float, float], steps: int, lr: float, momentum: float = 0.0
) -> Path2D:
    """Take steps with a recipe and write down every point that it evaluates."""
    model = Position(surface, start)
    base = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    optimizer = sharpkit.SharpnessAware(model, base, opt, loss=height, total_steps=steps, steps_per_epoch=1)
    batch = (torch.zeros(1, 1), torch.zeros(1), torch.zeros(1, dtype=torch.int64))
    path, spent = Path2D(), 0.0
    for _ in range(steps):
        here = model.weight.detach().clone()
        model.seen.clear()
        report = optimizer.step(batch)
        path.positions.append(here)
        path.losses.append(float(surface(here)))
        path.critical.append(spent)
        path.looked += [point for point in model.seen if report.perturbed and not torch.equal(point, here)][:1]
        spent += report.critical
    path.positions.append(model.weight.detach().clone())
    path.losses.append(float(surface(model.weight.detach())))
    path.critical.append(spent)
    return path


def reach(opt: str, surface: Surface, at: tuple[float, float]) -> tuple[Tensor, float]:
    """Return where a recipe looks from a point, and the height there, without moving."""
    path = walk(opt, surface, at, steps=1, lr=0.0)
    return path.looked[0], float(surface(path.looked[0]))


def neighbourhood(opt: str, at: tuple[float, float]) -> Tensor:
    """Return where a recipe looks from a point when the gradient turns full circle, (n, 2)."""
    angles = torch.linspace(0, 2 * torch.pi, 90, dtype=torch.float64)
    return torch.stack([reach(opt, lambda w, d=d: w @ d, at)[0] for d in torch.stack([angles.cos(), angles.sin()], 1)])


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


def sharpness(path: Path2D) -> np.ndarray:
    """The largest Hessian eigenvalue of `product`, w1^2 + w2^2, at the minimum that gradient flow reaches from here.

    The flow keeps w1^2 - w2^2, and w1 w2 = 1 at its end.
    """
    w = torch.stack(path.positions)
    return ((w[:, 0] ** 2 - w[:, 1] ** 2) ** 2 + 4).sqrt().numpy()


def sharpness_panel(axes: Axes, xlabel: str) -> None:
    axes.axhline(2, linestyle=":", color=BLACK, linewidth=1.2, label="flattest minimum")
    axes.set(xlabel=xlabel, ylabel="largest Hessian eigenvalue", ylim=(0, 7.8))
    axes.set_title("Sharpness of the minimum below", fontsize=10)
    axes.legend(loc="upper right", bbox_to_anchor=(1, 0.8), fontsize=9)


def sgd() -> Figure:
    figure, left, right = two_panels("sgd: the base optimizer stops at the minimum that it meets first")
    map_of(left, product, WIDTH, HEIGHT)
    left.set_title("Three starts, three ends", fontsize=10)
    for momentum, colour, style, marker in ((0.0, BLUE, "-", "s"), (0.6, ORANGE, "--", "^")):
        label = f"SGD, momentum {momentum:g}"
        for i, start in enumerate([(0.12, 1.6), (1.5, 1.9), (1.8, 1.1)]):
            path = walk("sgd", product, start, 200, lr=0.02, momentum=momentum)
            track(left, path, colour, style, marker, label if i == 0 else None, span=0)
            start_mark(left, start, "")
            if i == 1:
                right.semilogy(np.maximum(path.losses, 1e-10), style, color=colour, label=label)
    left.legend(loc="upper right", fontsize=9)
    right.set(xlabel="step", ylabel="loss", ylim=(1e-10, 1e2))
    right.set_title("Loss from the start in the middle", fontsize=10)
    right.legend(loc="upper right", fontsize=9)
    return figure


def sam() -> Figure:
    figure, left, right = two_panels("sam: the perturbation drives the weights along the valley to its flattest place")
    map_of(left, product, WIDTH, HEIGHT)
    for opt, colour, style, marker, label in (
        ("sgd", BLUE, "--", "s", "SGD"),
        ("sam:rho=0.2", ORANGE, "-", "^", r"SAM, $\rho = 0.2$"),
    ):
        path = walk(opt, product, START, 250, lr=0.1)
        track(left, path, colour, style, marker, label)
        right.plot(sharpness(path), style, color=colour, label=label)
    start_mark(left)
    left.set_title("Both from one start, 250 steps", fontsize=10)
    left.legend(loc="upper right", fontsize=9)
    sharpness_panel(right, "step")
    return figure


def asam() -> Figure:
    figure, left, right = two_panels("asam: the neighbourhood scales with the weights")
    map_of(left, product, (0.05, 3.0), (0.05, 3.0))
    places = np.array([0.4, 0.63, 1.0, 1.59, 2.5])
    for opt, colour, style, label in (
        ("sam:rho=0.15", BLUE, "--", r"SAM, $\rho = 0.15$"),
        ("asam:rho=0.15:eta=0", ORANGE, "-", r"ASAM, $\rho = 0.15$, $\eta = 0$"),
    ):
        for i, x in enumerate(places):
            ring = neighbourhood(opt, (x, 1 / x)).numpy()
            left.plot(*ring.T, style, color=colour, linewidth=1.6, label=label if i == 0 else None)
        along = np.geomspace(0.2, 5, 80)
        # Just off the minimum, where there is a gradient to climb.
        looked = [reach(opt, product, (x, 1.001 / x))[1] for x in along]
        right.plot(along, looked, style, color=colour, linewidth=2, label=label)
    left.plot(places, 1 / places, ".", color=BLACK)
    left.set_aspect("equal")
    left.set_title("Where they look from five minima", fontsize=10)
    left.legend(loc="upper right", fontsize=9)
    right.set(xscale="log", xlabel=r"$w_1$ of the minimum, with $w_2 = 1 / w_1$", ylabel=r"loss at $w + \varepsilon$")
    right.set_xticks([0.2, 0.5, 1, 2, 5], ["0.2", "0.5", "1", "2", "5"])
    right.minorticks_off()
    right.set_ylim(0, None)
    right.set_title("What they find there", fontsize=10)
    right.legend(loc="upper center", fontsize=9)
    return figure


def sampa() -> Figure:
    figure, left, right = two_panels("sampa: the two gradients of a step do not wait for each other")
    map_of(left, product, WIDTH, HEIGHT)
    for opt, colour, style, marker, label in (
        ("sam:rho=0.2", ORANGE, "--", "^", r"SAM, $\rho = 0.2$"),
        ("sampa:rho=0.2", GREEN, "-", "D", r"SAMPa, $\rho = 0.2$, $\lambda = 0.2$"),
    ):
        path = walk(opt, product, START, 250, lr=0.1)
        track(left, path, colour, style, marker, label)
        right.plot(path.critical, sharpness(path), style, color=colour, label=label)
    start_mark(left)
    left.set_title("Both from one start, 250 steps", fontsize=10)
    left.legend(loc="upper right", fontsize=9)
    sharpness_panel(right, "gradients one after the other, with two devices")
    return figure


def beside_sgd(name: str) -> Figure:
    """A recipe beside SGD; what a recipe gets that has no figure of its own."""
    figure, left, right = two_panels(f"{name}: its path, and that of sgd, from one start")
    map_of(left, product, WIDTH, HEIGHT)
    opt = f"{name}:rho=0.2" if "rho" in parameters(sharpkit.RECIPES[name]) else name
    for text, colour, style, marker in (("sgd", BLUE, "--", "s"), (opt, ORANGE, "-", "^")):
        path = walk(text, product, START, 250, lr=0.1)
        track(left, path, colour, style, marker, text)
        right.plot(sharpness(path), style, color=colour, label=text)
    start_mark(left)
    left.set_title("Both from one start, 250 steps", fontsize=10)
    left.legend(loc="upper right", fontsize=9)
    sharpness_panel(right, "step")
    return figure


FIGURES: dict[str, Callable[[], Figure]] = {"sgd": sgd, "sam": sam, "asam": asam, "sampa": sampa}


def draw_all(folder: Path) -> None:
    """Write one PNG for every registered recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in sharpkit.RECIPES:
        figure = FIGURES[name]() if name in FIGURES else beside_sgd(name)
        figure.savefig(folder / f"{name}.png", dpi=150)
        plt.close(figure)

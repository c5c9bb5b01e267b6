"""Draw the figures of the recipe pages with the recipes themselves: those not of paths, and all of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import masks
import matplotlib.pyplot as plt
import numpy as np
import teachers
import torch
import valley
from matplotlib.figure import Figure
from toys import (
    BLACK,
    BLUE,
    COLOURS,
    MARKERS,
    ORANGE,
    STYLES,
    map_of,
    neighbourhood,
    probe,
    product,
    reach,
    small_network,
    two_panels,
    walk,
)

import sharpkit
from sharpkit.core.task import Batch


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


def fisher_sam() -> Figure:
    figure, left, right = two_panels("fisher-sam: large gradients bend the neighbourhood, small ones leave it to SAM")
    for slope, colour, style in zip((0.1, 1, 4), COLOURS, STYLES, strict=True):
        ring = neighbourhood("fisher-sam:rho=0.1", (0.0, 0.0), slope).numpy()
        left.plot(*ring.T, style, color=colour, label=rf"$\|g\| = {slope:g}$")
    left.set_aspect("equal")
    left.set(xlabel=r"$\varepsilon_1$", ylabel=r"$\varepsilon_2$", xlim=(-0.12, 0.12), ylim=(-0.12, 0.19))
    left.set_title(r"$\varepsilon$ when $g$ turns full circle, $\rho = 0.1$, $\eta = 1$", fontsize=10)
    left.legend(loc="upper right", fontsize=9)
    slopes = np.geomspace(1e-3, 10, 40)
    for eta, colour, style in zip((0.1, 1, 10), COLOURS, STYLES, strict=True):
        away = []
        for slope in slopes:
            there = [reach(opt, lambda w, s=slope: s * (w[0] + 0.5 * w[1]), (0.0, 0.0))[0]
                     for opt in ("sam:rho=0.1", f"fisher-sam:rho=0.1:eta={eta}")]  # fmt: skip
            away.append(float((there[0] - there[1]).norm() / there[0].norm()))
        right.loglog(slopes, away, style, color=colour, label=rf"$\eta = {eta:g}$")
    right.set(xlabel="larger entry of $g$, the other is half of it", ylabel="relative to the length of SAM's")
    right.set_title(r"How far $\varepsilon$ is from SAM's", fontsize=10)
    right.legend(loc="lower right", fontsize=9)
    return figure


def sam_on() -> Figure:
    figure, left, right = two_panels("sam-on: the whole radius goes to the normalisation layers")
    model, batch = small_network()
    names = [name for name, _ in model.named_parameters()]
    labels = ["linear 1\nweight", "bias", "norm\nweight", "bias", "linear 2\nweight", "bias"]
    radii = np.linspace(0.02, 1, 25)
    for i, (opt, label) in enumerate((("sam:", "SAM"), ("sam-on:norm=except:", "all but norm"), ("sam-on:", "SAM-ON"))):
        lengths = probe(f"{opt}rho=0.5", model, batch)[0]
        left.bar(np.arange(6) + 0.27 * (i - 1), [lengths[name] for name in names], 0.25, color=COLOURS[i], label=label)
        found = [probe(f"{opt}rho={rho}", model, batch)[1] for rho in radii]
        right.plot(radii, found, STYLES[i], color=COLOURS[i], label=label)
    left.set_xticks(range(6), labels, fontsize=8)
    left.set(ylabel=r"length of $\varepsilon$ on the tensor", ylim=(0, 0.57))
    left.set_title(r"Where the perturbation is, $\rho = 0.5$", fontsize=10)
    right.set(xlabel=r"$\rho$", ylabel=r"loss at $w + \varepsilon$")
    right.set_title("What it finds there", fontsize=10)
    for axes in (left, right):
        axes.legend(loc="upper left", fontsize=9)
    return figure


def bisam(name: str, opts: tuple[str, str, str]) -> Figure:
    figure, left, right = two_panels(f"{name}: the climbed loss is a smooth lower bound of the 0-1 loss")
    margin = torch.linspace(-8, 8, 321, dtype=torch.float64, requires_grad=True)
    outputs = torch.stack([torch.zeros_like(margin), margin], 1)  # two classes; the first is right
    batch = Batch.of((margin, torch.zeros(len(margin), dtype=torch.int64)))
    x = margin.detach()
    left.plot(x, (x > 0).double(), ":", color=BLACK, label="0-1 loss")
    entropy = torch.nn.functional.cross_entropy(outputs, batch.targets, reduction="none")
    lines = [("cross-entropy", entropy, ":", BLACK, None)]
    for opt, style, colour in zip(opts, STYLES, COLOURS, strict=True):
        rule = sharpkit.parse(opt)
        bound = rule.ascent_loss(outputs, batch)
        label = rule.text.split(":", 2)[2].replace(":", ", ")
        lines.append((label, bound, style, colour, np.log(2) / rule.ascent_loss.mu))
    for label, curve, style, colour, shift in lines:
        if shift is not None:
            left.plot(x, curve.detach() - shift, style, color=colour, label=label)
        (weight,) = torch.autograd.grad(curve.sum(), margin, retain_graph=True)
        right.plot(x, weight / weight.max(), style, color=colour, label=label)
    for axes in (left, right):
        axes.set_xlabel("margin of the wrong class over the right one")
    left.set(ylabel=r"$Q - \log(2) / \mu$", ylim=(-2.2, 1.2))
    left.set_title("The bound", fontsize=10)
    right.set(ylabel="relative to the largest", ylim=(-0.05, 1.25))
    right.set_title("Weight of a sample in the climbed gradient", fontsize=10)
    left.legend(loc="lower right", fontsize=9)
    right.legend(loc="upper left", fontsize=9)
    return figure


def vasso() -> Figure:
    figure, left, right = two_panels("vasso: the average keeps the direction that noisy gradients agree on")
    tilts = torch.randn(60, 1, 2, generator=torch.Generator().manual_seed(1))
    opts = ("sam:rho=0.2", "vasso:rho=0.2:theta=0.9", "vasso:rho=0.2:theta=0.2")
    labels = ("SAM", r"VaSSO, $\theta = 0.9$", r"VaSSO, $\theta = 0.2$")
    for i, (opt, label) in enumerate(zip(opts, labels, strict=True)):
        path = walk(opt, lambda w: w[0] + w[1], (0.0, 0.0), 60, lr=0.0, tilts=tilts)
        points = torch.stack(path.looked).numpy() * (0.9 + 0.1 * i)  # on three circles, so that all can be seen
        left.plot(*points.T, MARKERS[i], color=COLOURS[i], alpha=0.6, label=label)
        angles = np.degrees(np.arccos((points @ np.ones(2)) / np.linalg.norm(points, axis=1) / np.sqrt(2)))
        right.plot(angles, STYLES[i], color=COLOURS[i], label=label)
    left.annotate("", (0.12, 0.12), (0, 0), arrowprops={"arrowstyle": "->"})
    left.annotate("mean gradient", (0.0, -0.02), fontsize=9)
    left.set_aspect("equal")
    left.set(xlabel=r"$\varepsilon_1$", ylabel=r"$\varepsilon_2$")
    left.set_title("Perturbations of 60 steps (circles drawn apart)", fontsize=10)
    left.legend(loc="lower left", fontsize=9)
    right.set(xlabel="step", ylabel="degrees", ylim=(0, 180))
    right.set_title("Angle to the mean gradient", fontsize=10)
    right.legend(loc="upper right", fontsize=9)
    return figure


def gsam() -> Figure:
    figure, left, right = two_panels("gsam: the update turns away from the clean gradient, the radius follows the rate")
    bowl, at = (lambda w: 0.1 * w[0] ** 2 + w[1] ** 2), (4.0, 0.3)
    for alpha, colour, style in zip((0, 0.4, 0.8), COLOURS, STYLES, strict=True):
        path = walk(f"gsam:rho=0.5:alpha={alpha}", bowl, at, 1, lr=1.0)
        u = (path.positions[0] - path.positions[1]).numpy()
        left.annotate("", u, (0, 0), arrowprops={"arrowstyle": "->", "color": colour, "linestyle": style, "lw": 2})
        left.plot([], [], style, color=colour, label=rf"$u$, $\alpha = {alpha:g}$" + (" ($h$)" if alpha == 0 else ""))
    path = walk("sgd", bowl, at, 1, lr=1.0)
    g = (path.positions[0] - path.positions[1]).numpy()
    left.annotate("", g, (0, 0), arrowprops={"arrowstyle": "->", "color": BLACK, "linestyle": ":", "lw": 2})
    left.plot([], [], ":", color=BLACK, label="$g$")
    left.set(xlim=(0, 1.4), ylim=(0, 1.4), aspect="equal")
    left.set_title("One step in a bowl that is steeper along $w_2$", fontsize=10)
    left.legend(loc="upper left", fontsize=9)
    rate = [min((t + 1) / 20, 0.5 + 0.5 * np.cos(np.pi * max(t - 19, 0) / 180)) for t in range(200)]
    for i, opt in enumerate(("gsam:rho=0.1", "gsam:rho_max=0.2:rho_min=0.1", "gsam:rho_max=0.3:rho_min=0")):
        path = walk(opt, lambda w: w[0], (0.0, 0.0), 200, lr=0.01, schedule=lambda t: rate[t] if t < 200 else 0.0)
        away = [float((a - b).norm()) for a, b in zip(path.looked, path.positions, strict=False)]
        right.plot(away, STYLES[i], color=COLOURS[i], label=opt.removeprefix("gsam:").replace(":", ", "))
    right.plot(np.array(rate) * 0.3, ":", color=BLACK, label="learning rate, scaled")
    right.set(xlabel="step", ylabel=r"length of $\varepsilon$", ylim=(0, 0.36))
    right.set_title("The radius", fontsize=10)
    right.legend(loc="upper right", fontsize=9)
    return figure


def msam() -> Figure:
    figure, left, right = two_panels("msam: smaller shards find higher losses within the same radius")
    draws = torch.randn(100, 8, 2, generator=torch.Generator().manual_seed(2))
    shape = lambda w: 0.6 * w[0] + 0.8 * w[1]  # noqa: E731
    found = []
    for m in (1, 2, 4, 8):
        path = walk(f"msam:rho=0.2:m={m}", shape, (0.0, 0.0), 100, lr=0.0, tilts=draws)
        found.append(path.found)
        if m in (1, 4, 8):
            i = (1, 4, 8).index(m)
            points = torch.stack(path.shards[:m]).numpy() * (0.9 + 0.1 * i)
            left.plot(*points.T, MARKERS[i], color=COLOURS[i], label=f"m = {m}")
    left.annotate("", (0.07, 0.093), (0, 0), arrowprops={"arrowstyle": "->"})
    left.annotate("mean gradient", (-0.03, -0.02), fontsize=9)
    left.set_aspect("equal")
    left.set(xlabel=r"$\varepsilon_1$", ylabel=r"$\varepsilon_2$", xlim=(-0.25, 0.25), ylim=(-0.25, 0.25))
    left.set_title("Perturbations of one batch of 8 (circles drawn apart)", fontsize=10)
    left.legend(loc="lower left", fontsize=9)
    right.boxplot(found, tick_labels=["1", "2", "4", "8"], medianprops={"color": ORANGE})
    right.set(xlabel="shards m", ylabel="mean loss of the samples")
    right.set_title(r"Loss at every shard's $w + \varepsilon_i$, 100 batches", fontsize=10)
    return figure


FIGURES: dict[str, Callable[[], Figure]] = {
    "sgd": valley.sgd,
    "sam": valley.sam,
    "asam": asam,
    "fisher-sam": fisher_sam,
    "sam-on": sam_on,
    "ssam-f": masks.ssam_f,
    "ssam-d": masks.ssam_d,
    "bisam-tanh": partial(bisam, "bisam-tanh", ("bisam-tanh:mu=1", "bisam-tanh", "bisam-tanh:alpha=1")),
    "bisam-log": partial(bisam, "bisam-log", ("bisam-log:mu=0.3", "bisam-log", "bisam-log:mu=10")),
    "vasso": vasso,
    "gsam": gsam,
    "gnp": valley.gnp,
    "msam": msam,
    "sampa": valley.sampa,
    "ss-sam": partial(valley.some_steps, "ss-sam", "ss-sam:rho=0.2:p=0.3", "a draw decides which steps perturb"),
    "looksam": partial(valley.some_steps, "looksam", "looksam:rho=0.2", "every fifth step perturbs, the others reuse"),
    "ae-sam": partial(valley.large_gradients, "ae-sam", "ae-sam:rho=0.2"),
    "ae-looksam": partial(valley.large_gradients, "ae-looksam", "ae-looksam:rho=0.2"),
    "saf": teachers.saf,
    "mesa": teachers.mesa,
}


def draw_all(folder: Path) -> None:
    """Write one PNG for every registered recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in sharpkit.RECIPES:
        figure = FIGURES[name]() if name in FIGURES else valley.beside_sgd(name)
        figure.savefig(folder / f"{name}.png", dpi=150)
        plt.close(figure)

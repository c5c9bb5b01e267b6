"""Figures that show paths along the valley of minima of `toys.product`."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure
from toys import (
    BLACK,
    BLUE,
    COLOURS,
    GREEN,
    HEIGHT,
    MARKERS,
    ORANGE,
    START,
    STYLES,
    WIDTH,
    map_of,
    product,
    sharpness,
    sharpness_panel,
    start_mark,
    track,
    two_panels,
    walk,
)

import sharpkit
from sharpkit.recipes.ae_sam import LargeGradient
from sharpkit.recipes.grammar import parameters


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


def gnp() -> Figure:
    figure, left, right = two_panels("gnp: the weight of the perturbed gradient leads from SGD to SAM")
    map_of(left, product, WIDTH, HEIGHT)
    for alpha, colour, style, marker in zip((0, 0.4, 0.8), COLOURS, STYLES, MARKERS, strict=True):
        path = walk(f"gnp:rho=0.2:alpha={alpha}", product, START, 250, lr=0.1)
        track(left, path, colour, style, marker, rf"$\alpha = {alpha:g}$")
        right.plot(sharpness(path), style, color=colour, label=rf"$\alpha = {alpha:g}$")
    right.plot(sharpness(walk("sam:rho=0.2", product, START, 250, lr=0.1)), ":", color="grey", label="SAM")
    start_mark(left)
    left.set_title("From one start, 250 steps", fontsize=10)
    left.legend(loc="upper right", fontsize=9)
    sharpness_panel(right, "step")
    return figure


def some_steps(name: str, opt: str, what: str) -> Figure:
    figure, left, right = two_panels(f"{name}: {what}")
    map_of(left, product, WIDTH, HEIGHT)
    for text, colour, style, marker, label in (
        ("sam:rho=0.2", BLUE, "--", "s", r"SAM, $\rho = 0.2$"),
        (opt, ORANGE, "-", "^", opt),
    ):
        path = walk(text, product, START, 60, lr=0.1)
        track(left, path, colour, style, marker, label)
        right.plot(sharpness(path), style, color=colour, label=label)
    steps = np.flatnonzero(path.perturbed)
    points = torch.stack(path.positions).numpy()[steps]
    left.plot(*points.T, "o", color=BLACK, markersize=4, label="perturbs")
    right.plot(steps, sharpness(path)[steps], "o", color=BLACK, markersize=4, label="perturbs")
    start_mark(left)
    left.set_title("Both from one start, 60 steps", fontsize=10)
    left.legend(loc="upper right", fontsize=9)
    sharpness_panel(right, "step")
    right.legend(loc="lower left", ncols=2, fontsize=9)
    return figure


def large_gradients(name: str, opt: str) -> Figure:
    figure, left, right = two_panels(f"{name}: steps with an unusually large gradient perturb")
    map_of(left, product, WIDTH, HEIGHT)
    tilts = 0.25 * torch.randn(150, 1, 2, generator=torch.Generator().manual_seed(3))
    path = walk(opt, product, (0.6, 1.7), 150, lr=0.1, tilts=tilts)
    track(left, path, ORANGE, "-", "^", opt)
    steps = np.flatnonzero(path.perturbed)
    left.plot(*torch.stack(path.positions).numpy()[steps].T, "o", color=BLACK, markersize=4, label="perturbs")
    start_mark(left, (0.6, 1.7))
    left.set_title("150 steps with noisy gradients", fontsize=10)
    left.legend(loc="upper right", fontsize=9)
    scores = np.array([notes["z_score"] for notes in path.notes])
    right.plot(scores, color=BLUE, linewidth=1, label="z-score of the squared norm")
    right.plot(steps, scores[steps], "o", color=BLACK, markersize=4, label=f"perturbs: {len(steps)} of 150")
    gate = sharpkit.parse(opt).gate
    assert isinstance(gate, LargeGradient)
    right.plot([0, 150], [gate.lam2, gate.lam1], "--", color=ORANGE, linewidth=2, label="threshold $c_t$")
    right.set(xlabel="step", ylabel="standard deviations", ylim=(-2, 5))
    right.set_title("Which steps perturb", fontsize=10)
    right.legend(loc="upper right", fontsize=9)
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

"""Figures of what holds the outputs back: those of some epochs ago, and those of averaged weights."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from toys import BLACK, COLOURS, STYLES, two_panels

import sharpkit

SAMPLES = 96


@dataclass
class Run:
    """What a small network said and had learnt in every epoch."""

    outputs: list[Tensor] = field(default_factory=list)  # (samples, classes) of the clean passes
    teacher: list[Tensor] = field(default_factory=list)  # the same of the averaged weights, where there are some
    losses: list[float] = field(default_factory=list)  # mean loss of the clean passes


def train(opt: str, epochs: int, pieces: int, lr: float) -> Run:
    """Train a network on random labels, some batches an epoch, and write down what it says about every sample."""
    torch.manual_seed(0)
    inputs, targets = torch.randn(SAMPLES, 6), torch.randint(3, (SAMPLES,))
    model = nn.Sequential(nn.Linear(6, 24), nn.Tanh(), nn.Linear(24, 3))
    base = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    optimizer = sharpkit.SharpnessAware(
        model, base, opt, loss=nn.functional.cross_entropy, samples=SAMPLES, steps_per_epoch=pieces
    )
    names = [name for name, _ in model.named_parameters()]
    run = Run()
    for _ in range(epochs):
        said = [torch.zeros(SAMPLES, 3), torch.zeros(SAMPLES, 3)]
        losses: list[float] = []
        for rows in torch.randperm(SAMPLES).chunk(pieces):
            averaged = optimizer.state_dict()["memory"].get("all/mesa.weights")
            if averaged is not None:
                weights = dict(zip(names, averaged, strict=True))
                said[1][rows] = torch.func.functional_call(model, weights, inputs[rows]).detach()
            report = optimizer.step((inputs[rows], targets[rows], rows))
            said[0][rows] = report.outputs
            losses.append(float(report.loss))
        run.outputs.append(said[0])
        run.teacher.append(said[1])
        run.losses.append(float(np.mean(losses)))
    return run


def divergence(z: Tensor, reference: Tensor, tau: float = 5.0) -> float:
    """tau^2 KL(softmax(reference / tau) || softmax(z / tau)), the mean over the samples."""
    own, other = ((t / tau).log_softmax(1) for t in (z, reference))
    return tau**2 * float(nn.functional.kl_div(own, other, reduction="batchmean", log_target=True))


def saf() -> Figure:
    figure, left, right = two_panels("saf: outputs are held near those of three epochs ago")
    epochs = 150
    for i, lam in enumerate((0, 1, 3)):
        run = train(f"saf:lam={lam}:start=5:lag=3", epochs, pieces=1, lr=0.1)
        moved = [divergence(run.outputs[e], run.outputs[e - 3]) for e in range(3, epochs)]
        label = "SGD" if lam == 0 else rf"SAF, $\lambda = {lam:g}$"
        left.semilogy(range(3, epochs), moved, STYLES[i], color=COLOURS[i], label=label)
        right.plot(run.losses, STYLES[i], color=COLOURS[i], linewidth=2, label=label)
    left.set(ylabel=r"$\tau^2$ KL to the outputs of three epochs ago")
    left.set_title("How far the outputs move", fontsize=10)
    right.set(ylabel="task loss", ylim=(0, None))
    right.set_title("How fast 96 random labels are learnt", fontsize=10)
    _mark_start(left, right)
    right.legend(loc="lower left", fontsize=9)
    return figure


def mesa() -> Figure:
    figure, left, right = two_panels("mesa: outputs are held near those of averaged weights")
    epochs = 40
    for i, lam in enumerate((0, 0.3, 3)):
        run = train(f"mesa:lam={lam}:start=5:decay=0.95", epochs, pieces=4, lr=0.2)
        apart = [divergence(z, t) for z, t in zip(run.outputs, run.teacher, strict=True)]
        label = "SGD" if lam == 0 else rf"MESA, $\lambda = {lam:g}$"
        right.plot(range(1, epochs), apart[1:], STYLES[i], color=COLOURS[i], linewidth=2, label=label)
        if lam == 0.3:
            continue
        own, average = (torch.stack(z)[:, 0, 0] - torch.stack(z)[:, 0, 1] for z in (run.outputs, run.teacher))
        left.plot(own, STYLES[i], color=COLOURS[i], linewidth=2, label=label)
        if lam:
            left.plot(range(1, epochs), average[1:], ":", color=BLACK, linewidth=2, label="its average")
    left.set(ylabel="first output less the second")
    left.set_title("What is said about one sample", fontsize=10)
    right.set(ylabel=r"$\tau^2$ KL to the average's outputs", ylim=(0, 0.33))
    right.set_title("How far the outputs are from the average's", fontsize=10)
    _mark_start(left, right)
    left.legend(loc="upper left", fontsize=9)
    return figure


def _mark_start(left: Axes, right: Axes) -> None:
    for axes in (left, right):
        axes.axvline(5.5, linestyle="-", color="grey", linewidth=1, label="term from epoch 6 on")
        axes.set(xlabel="epoch")
        axes.legend(loc="upper right", fontsize=9)

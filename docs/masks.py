"""Figures of sparse masks on a small network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from toys import BLACK, BLUE, COLOURS, GREEN, MARKERS, ORANGE, STYLES, probe, small_network, two_panels

import sharpkit

TENSORS = ["linear 1\nweight", "bias", "norm\nweight", "bias", "linear 2\nweight", "bias"]

Masks = list[list[Tensor]]


def epochs(
    opt: str, model: nn.Module, batch: tuple[Tensor, Tensor], count: int, lr: float = 0.1
) -> tuple[Masks, list[dict[str, float]]]:
    """Take steps with a sparse mask, two an epoch; return the mask and the first report's notes of every epoch."""
    base = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    optimizer = sharpkit.SharpnessAware(
        model, base, opt, loss=nn.functional.cross_entropy, steps_per_epoch=2, total_steps=2 * count
    )
    masks: Masks = []
    notes: list[dict[str, float]] = []
    (inputs, targets), half = batch, len(batch[1]) // 2
    for _ in range(count):
        report = optimizer.step((inputs[:half], targets[:half]))
        optimizer.step((inputs[half:], targets[half:]))
        memory = optimizer.state_dict()["memory"]
        masks.append(next(value for key, value in memory.items() if key.endswith(".mask")))
        notes.append({name: float(value) for name, value in report.notes.items()})
    return masks, notes


def parts(mask: Sequence[Tensor]) -> list[float]:
    """The part of every tensor that may be perturbed."""
    return [float(m.double().mean()) for m in mask]


def ssam_f() -> Figure:
    figure, left, right = two_panels("ssam-f: entries of large Fisher information find more than random ones")
    model, batch = small_network()
    for i, s in enumerate((0.5, 0.8, 0.95)):
        (mask,), _ = epochs(f"ssam-f:sparsity={s}", *small_network(), 1)
        left.bar(np.arange(6) + 0.27 * (i - 1), parts(mask), 0.25, color=COLOURS[i], label=f"$s = {s:g}$")
    left.set_xticks(range(6), TENSORS, fontsize=8)
    left.set(ylabel="part of the tensor that is perturbed", ylim=(0, 1.2))
    left.set_title("Where the mask is", fontsize=10)
    left.legend(loc="upper left", ncols=3, fontsize=9)
    sparsities = np.linspace(0, 0.99, 23)
    for extra, colour, style, label in (
        ("", ORANGE, "-", "Fisher mask"),
        (":mask=random", BLUE, "--", "random mask"),
    ):
        seeds = range(10) if extra else (0,)
        found = [
            np.mean([probe(f"ssam-f:rho=0.5:sparsity={s}{extra}", model, batch, seed=k)[1] for k in seeds])
            for s in sparsities
        ]
        right.plot(sparsities, found, style, color=colour, linewidth=2, label=label)
    clean = probe("sam:rho=0", model, batch)[1]
    right.axhline(probe("sam:rho=0.5", model, batch)[1], linestyle="-.", color=GREEN, label="SAM")
    right.axhline(clean, linestyle=":", color=BLACK, label=r"at $w$")
    right.set(xlabel="sparsity $s$", ylabel=r"loss at $w + \varepsilon$")
    right.set_title(r"What it finds, $\rho = 0.5$ (random: mean of 10)", fontsize=10)
    right.set_ylim(clean - 0.02, None)
    right.legend(loc="lower left", ncols=2, fontsize=9)
    return figure


def ssam_d() -> Figure:
    figure, left, right = two_panels("ssam-d: the mask moves much at first, and settles")
    model, batch = small_network()
    masks, _ = epochs("ssam-d", model, batch, 30)
    rows = torch.stack([mask[4].flatten() for mask in masks])
    left.imshow(rows, aspect="auto", cmap="Blues", vmin=0, vmax=1.3, interpolation="nearest")
    left.set(xlabel="entry of the last weight matrix", ylabel="epoch")
    left.set_title("The mask: dark entries are perturbed", fontsize=10)
    for i, opt in enumerate(("ssam-d", "ssam-d:alpha=0.2", "ssam-d:sparsity=0.9")):
        _, notes = epochs(opt, *small_network(), 30)
        for name, style in (("mask_churn", STYLES[2]), ("mask_density", ":")):
            marker = MARKERS[i] if name == "mask_churn" else None
            label = {"ssam-d": "defaults"}.get(opt, opt.removeprefix("ssam-d:")) if marker else None
            values = [note[name] for note in notes]
            right.plot(range(1, 30), values[1:], style, color=COLOURS[i], marker=marker, markersize=4, label=label)
    right.plot([], [], ":", color=BLACK, label="density")
    right.set(xlabel="epoch", ylabel="part of all entries", ylim=(0, 0.72))
    right.set_title("Churn: entries that came or left, and density", fontsize=10)
    right.legend(loc="upper right", ncols=2, fontsize=9)
    return figure

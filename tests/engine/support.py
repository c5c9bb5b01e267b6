"""A user's model with batch norm and dropout, runs that a signal stops, and comparison bit by bit."""

import json
import math
import signal
from pathlib import Path

import torch

from sharpkit.commands.train import resume, run
from sharpkit.engine import checkpoint
from sharpkit.engine.config import TrainConfig
from sharpkit.engine.observer import Quiet
from tests.core.support import bits

MODEL = """
from torch import nn


def net(shape, classes):
    return nn.Sequential(
        nn.Conv2d(shape[0], 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
        nn.Linear(8 * 36, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.4), nn.Linear(16, classes),
    )
"""

TIMES = ("seconds", "samples_per_s", "elapsed", "wall_s", "peak_mb")


class Stopper(Quiet):
    """Raises a signal in this process after certain steps, as a scheduler or Ctrl-C would."""

    def __init__(self, *steps, number=signal.SIGTERM):
        self.steps = steps
        self.number = number

    def step(self, step, size):
        if step in self.steps:
            signal.raise_signal(self.number)


def small(folder: Path, **options) -> TrainConfig:
    """A run of 3 epochs of 6 steps: 180 samples in batches of 32, the last one of 20."""
    file = folder / "net.py"
    file.write_text(MODEL)
    chosen = {"model": f"{file}:net", "limit": 200, "batch_size": 32, "epochs": 3, "threads": "1"}
    return TrainConfig(**{**chosen, **options})


def untimed(tree):
    """A structure without what a clock said, in which NaN equals NaN."""
    if isinstance(tree, float) and not math.isfinite(tree):
        return str(tree)
    if isinstance(tree, dict):
        return {key: untimed(value) for key, value in tree.items() if key not in TIMES}
    if isinstance(tree, list | tuple):
        return [untimed(value) for value in tree]
    return tree


def stored(path: Path):
    """Everything in a checkpoint, comparable, without times."""
    return bits(untimed(checkpoint.load(path)))


def metrics(folder: Path):
    return [untimed(json.loads(line)) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def outcome(folder: Path, result):
    """All that a run leaves behind, comparable, without times."""
    return {
        "checkpoint": stored(folder / "ckpt.pt"),
        "others": {p.name: stored(p) for p in sorted(folder.glob("*.pt"))},
        "metrics": metrics(folder),
        "numbers": untimed(result.metrics),
        "cost": untimed(result.cost),
        "args": result.config,
        "warnings": result.warnings,
        "config": (folder / "config.toml").read_text(),
    }


def weights(folder: Path):
    return bits(torch.load(folder / "ckpt.pt", weights_only=True)["model"])


__all__ = ["Stopper", "bits", "metrics", "outcome", "resume", "run", "small", "stored", "untimed", "weights"]

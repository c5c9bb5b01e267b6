"""Learning-rate schedules, step by step, attached to the base optimizer."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from sharpkit.engine.config import TrainConfig


def factor(config: TrainConfig, steps_per_epoch: int, step: int) -> float:
    """Return the learning rate of a step relative to --lr.

    Warm-up is linear over W steps, (t + 1) / W. After it, with s in [0, 1) the fraction of the remaining steps done:
    `cosine` is (1 + cos(pi s)) / 2, `step` is 0.1 from half and 0.01 from three quarters on, `const` is 1.

    Args:
        config: Schedule, epochs and warm-up epochs.
        steps_per_epoch: Steps in an epoch.
        step: t, from 0.
    """
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return (step + 1) / warmup
    rest = max(1, config.epochs * steps_per_epoch - warmup)
    done = min(1.0, (step - warmup) / rest)
    if config.sched == "cosine":
        return (1 + math.cos(math.pi * done)) / 2
    if config.sched == "step":
        return 1.0 if done < 0.5 else 0.1 if done < 0.75 else 0.01
    return 1.0


def attach(base: Optimizer, config: TrainConfig, steps_per_epoch: int) -> LambdaLR:
    """Return the scheduler that sets the base optimizer's learning rate before every step."""
    return LambdaLR(base, lambda step: factor(config, steps_per_epoch, step))

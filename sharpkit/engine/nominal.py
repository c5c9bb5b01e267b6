"""What a step of a recipe costs before any run is made."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn
from torch.nn import functional

from sharpkit.core.optimizer import SharpnessAware
from sharpkit.recipes.grammar import parse

_STEPS, _EPOCH, _BATCH, _FEATURES = 1000, 100, 8, 4


@cache
def sequential_cost(recipe: str) -> float:
    """Return the gradients a step that must wait for one another, with two devices where that helps.

    It is counted, in 1000 steps on random data with a linear model. So it is exact where a recipe decides by a
    schedule; one that decides by chance or by gradient norms decides there as on data without structure, such as on
    half of the steps for `ae-sam` with its thresholds at -1 and 1.

    Args:
        recipe: A recipe string.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Linear(_FEATURES, 2)
        inputs, targets = torch.randn(_EPOCH, _BATCH, _FEATURES), torch.randint(2, (_EPOCH, _BATCH))
        optimizer = SharpnessAware(
            model,
            torch.optim.SGD(model.parameters(), lr=1e-3),
            parse(recipe),
            loss=functional.cross_entropy,
            total_steps=_STEPS,
            steps_per_epoch=_EPOCH,
            samples=_EPOCH * _BATCH,
        )
        for step in range(_STEPS):
            place = step % _EPOCH
            rows = torch.arange(place * _BATCH, (place + 1) * _BATCH)
            optimizer.step((inputs[place], targets[place], rows))
    return optimizer.totals.critical / optimizer.totals.steps

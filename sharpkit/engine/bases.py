"""Base optimizers by name, and the user's own."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch.optim import Optimizer

from sharpkit.engine.config import TrainConfig
from sharpkit.engine.external import from_module
from sharpkit.errors import InputError, UsageError


def default_lr(base: str) -> float:
    """Return the learning rate that is used where none is given."""
    return 0.1 if base == "sgd" else 1e-3


def build_base(config: TrainConfig, params: Iterable[torch.nn.Parameter]) -> Optimizer:
    """Return the base optimizer.

    A class given as `module:Class` is called with `lr`, `weight_decay` and `momentum` where it takes them.

    Raises:
        UsageError: If the name is unknown.
        InputError: If the class cannot be imported, or is no torch optimizer.
    """
    lr = default_lr(config.base) if config.lr is None else config.lr
    if config.base == "sgd":
        return torch.optim.SGD(
            params, lr=lr, momentum=config.momentum, weight_decay=config.wd, nesterov=config.nesterov
        )
    if config.base == "adam":
        return torch.optim.Adam(params, lr=lr, weight_decay=config.wd)
    if config.base == "adamw":
        return torch.optim.AdamW(params, lr=lr, weight_decay=config.wd)
    if ":" not in config.base:
        raise UsageError(
            f"unknown base optimizer {config.base!r}",
            "allowed: sgd, adam, adamw, or module:Class such as torch.optim:NAdam",
        )
    built = _construct(config, lr, params)
    if not isinstance(built, Optimizer):
        raise InputError(f"{config.base} is no torch.optim.Optimizer", "give the class of an optimizer")
    return built


def _construct(config: TrainConfig, lr: float, params: Iterable[torch.nn.Parameter]) -> Any:
    made = from_module(config.base)
    accepted = inspect.signature(made).parameters
    wanted = {"lr": lr, "weight_decay": config.wd, "momentum": config.momentum}
    try:
        return made(params, **{name: value for name, value in wanted.items() if name in accepted})
    except (TypeError, ValueError) as error:
        raise InputError(f"{config.base} could not be built: {error}", "give the class of an optimizer") from error

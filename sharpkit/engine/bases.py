"""Base optimizers by name, and the user's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from sharpkit.core.base import check_base
from sharpkit.engine.config import TrainConfig
from sharpkit.engine.external import from_module, takes
from sharpkit.errors import InputError, SharpkitError, UsageError, one_line


def default_lr(base: str) -> float:
    """Return the learning rate that is used where none is given."""
    return 0.1 if base == "sgd" else 1e-3


def build_base(config: TrainConfig, params: Iterable[nn.Parameter]) -> Optimizer:
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
    made = from_module(config.base, "--base", Optimizer)
    params = list(params)
    _rehearse(_construct(made, config, lr, twins := [_twin(p) for p in params]), config.base, twins)
    return _construct(made, config, lr, params)


def _construct(made: Callable[..., Any], config: TrainConfig, lr: float, params: list[nn.Parameter]) -> Optimizer:
    wanted = {"lr": lr, "weight_decay": config.wd, "momentum": config.momentum}
    accepted = takes(made)
    try:
        built = made(params, **{name: value for name, value in wanted.items() if name in accepted})
    except Exception as error:
        raise InputError(
            f"{config.base} could not be built: {one_line(error)}", "give the class of an optimizer"
        ) from error
    if not isinstance(built, Optimizer):
        raise InputError(f"{config.base} is no torch.optim.Optimizer", "give the class of an optimizer")
    return built


def _rehearse(base: Optimizer, name: str, params: list[nn.Parameter]) -> None:
    """Take one step on copies of the parameters, so that what cannot train is told before the run starts."""
    for param in params:
        param.grad = torch.zeros_like(param)
    try:
        check_base(base)
        base.step()
    except SharpkitError:
        raise
    except Exception as error:
        raise InputError(
            f"{name} cannot train this model: {one_line(error)}", "give an optimizer for dense gradients"
        ) from error


def _twin(param: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(param.detach().clone(), requires_grad=param.requires_grad)

"""What the engine asks of a base optimizer: which parameters it steps."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim import Optimizer

from sharpkit.errors import SharpkitWarning, UsageError


def check_base(base: Optimizer) -> None:
    """Refuse a base optimizer that evaluates the loss itself.

    Raises:
        UsageError: If it is not a torch optimizer, or needs a closure.
    """
    if not isinstance(base, Optimizer):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError(
            f"base is {type(base).__name__}, allowed is a torch.optim.Optimizer",
            "give torch.optim.SGD(...), for example",
        )
    if isinstance(base, torch.optim.LBFGS):
        raise UsageError(
            "base is LBFGS, which evaluates the loss itself", "use SGD, Adam, AdamW or another first-order one"
        )


class Grouped(Protocol):
    """What holds parameters in groups, such as a `torch.optim.Optimizer`."""

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups."""
        ...


def trainable(model: nn.Module, base: Grouped) -> tuple[list[str], list[Tensor]]:
    """Return names and tensors of all parameters that the base optimizer steps, the model's in its own order first.

    Raises:
        UsageError: If there are none.
    """
    held = {id(p) for group in base.param_groups for p in group["params"] if p.requires_grad}
    found = {id(p): (name, p) for name, p in model.named_parameters() if id(p) in held}
    for g, group in enumerate(base.param_groups):
        for i, p in enumerate(group["params"]):
            if id(p) in held and id(p) not in found:
                found[id(p)] = (f"base.{g}.{i}", p)
    if not found:
        raise UsageError(
            "the base optimizer holds no trainable parameter", "build it with model.parameters() that require gradients"
        )
    for name, p in found.values():
        if p.dtype in (torch.bfloat16, torch.float16):
            warnings.warn(
                f"parameter {name} is stored in {p.dtype}, where a perturbation of radius 0.05 moves only about half "
                "of the coordinates: keep the weights in float32 and use precision='bf16'",
                SharpkitWarning,
                stacklevel=3,
            )
            break
    return [name for name, _ in found.values()], [p for _, p in found.values()]


def owners(model: nn.Module, params: Sequence[Tensor]) -> list[nn.Module | None]:
    """Return the module that computes with each parameter, the first of several; None for one outside the model.

    That is the module that holds it, or, where it is what a parametrization makes a tensor from, the module of that
    tensor.
    """
    holds: dict[int, nn.Module] = {}
    for module in model.modules():
        of: list[nn.Module] = [module]
        if parametrize.is_parametrized(module):
            of += list(cast("nn.ModuleDict", module.parametrizations).values())
        for part in of:
            for p in part.parameters(recurse=False):
                holds.setdefault(id(p), module)
    return [holds.get(id(p)) for p in params]


def layer_of(name: str) -> str:
    """Return the name of the module that computes with a parameter, or the parameter's own in the model itself.

    Args:
        name: The parameter's, which under a parametrization says how its tensor is made.
    """
    return name.partition(".parametrizations.")[0] if ".parametrizations." in name else name.rpartition(".")[0] or name

"""Parameters and parameter groups that a step cannot take, refused before anything is computed."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from sharpkit.core.shards import is_sharded
from sharpkit.errors import UsageError

_TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64, torch.complex128)

_OF_SAM = frozenset({"rho", "adaptive", "perturb_eps", "eta", "theta", "lam", "nograd_cutoff"})
"""What SAM optimizers of other libraries read from a parameter group."""


def check_initialised(model: nn.Module) -> None:
    """Refuse a model whose lazy layers have no shapes yet, or that holds no numbers.

    Raises:
        UsageError: If so.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise UsageError(
                f"{name} is uninitialized: a lazy layer takes its shape from the first batch that it sees",
                "call model(inputs) once before",
            )
        if tensor.is_meta and type(tensor) in (Tensor, nn.Parameter):  # a subclass may hold numbers elsewhere
            raise UsageError(
                f"{name} is on the meta device, which holds no numbers",
                "call model.to_empty(device=...) and initialize or load the weights before",
            )


def check_parameters(names: Sequence[str], params: Sequence[Tensor], *, several: bool) -> None:
    """Refuse trainable parameters that cannot be perturbed.

    Args:
        names: Of the parameters.
        params: Each once.
        several: Whether gradients go from rank to rank, or are computed on several streams.

    Raises:
        UsageError: If one is of a layout or type that is not allowed, or shares its memory with another.
    """
    for name, p in zip(names, params, strict=True):
        if p.layout is not torch.strided:
            raise UsageError(f"parameter {name} has layout {p.layout}, allowed is torch.strided", "use a dense tensor")
        if p.dtype not in _TYPES:
            allowed = ", ".join(str(t).removeprefix("torch.") for t in _TYPES)
            raise UsageError(f"parameter {name} is stored in {p.dtype}, allowed are {allowed}", "use float32")
        if several and p.is_complex():
            raise UsageError(
                f"parameter {name} is {p.dtype}, which neither several ranks nor streams take",
                "store torch.view_as_real(p) and call torch.view_as_complex in forward()",
            )
    _check_apart(names, params)


def check_groups(base: Optimizer, recipe: str) -> None:
    """Refuse hyperparameters of a recipe in a parameter group, which nobody would read.

    Args:
        base: The base optimizer; what it reads itself is its own.
        recipe: The recipe in full, as `sam:rho=0.05`.

    Raises:
        UsageError: If a group has one.
    """
    ours = _OF_SAM.union(re.findall(r"[:](\w+)=", recipe)) - set(getattr(base, "defaults", ()))
    for i, group in enumerate(base.param_groups):
        for key in sorted(ours.intersection(group)):
            raise UsageError(
                f"parameter group {i} has {key}={group[key]}, which {type(base).__name__} does not read; "
                "a recipe has one value for all parameters",
                "leave it out of the group and give it in the recipe, as sam:rho=0.05",
            )


def _check_apart(names: Sequence[str], params: Sequence[Tensor]) -> None:
    """Refuse memory that would be perturbed twice."""
    spans: list[tuple[int, int, str]] = []
    for name, p in zip(names, params, strict=True):
        if is_sharded(p):
            continue
        if any(stride == 0 and size > 1 for size, stride in zip(p.shape, p.stride(), strict=True)):
            raise UsageError(f"the entries of parameter {name} share memory", "make it of p.contiguous()")
        last = sum((size - 1) * stride for size, stride in zip(p.shape, p.stride(), strict=True))
        # Others have gaps, where another may lie, or hold their numbers elsewhere.
        if p.numel() == last + 1 and p.data_ptr():
            spans.append((p.data_ptr(), p.data_ptr() + p.numel() * p.element_size(), name))
    for (_, end, first), (start, _, second) in itertools.pairwise(sorted(spans)):
        if start < end:
            raise UsageError(
                f"parameters {first} and {second} share memory, which would be perturbed twice",
                "tie modules by one Parameter, as b.weight = a.weight",
            )

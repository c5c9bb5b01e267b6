"""A model whose parametrised tensors are plain parameters: the weights that its layers compute with."""

# What computes a weight keeps its name, and modules keep their tensors and hooks, in private attributes.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from sharpkit.core.buffers import evaluating
from sharpkit.diagnostics.measured import modules_of

_HOOKS: tuple[type[Any], ...] = (WeightNorm, SpectralNorm, BasePruningMethod)
"""What computes a weight before every pass, in the ways of torch before parametrizations."""


@dataclass(frozen=True)
class Baked:
    """What has become of parametrised tensors.

    Args:
        free: By name, which entries the parametrization can give another value; of those that are all free, nothing.
        notes: What a reader should know.
    """

    free: dict[str, Tensor]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Computed:
    """A tensor that a module computes from other ones: the name, what from, how, and by what."""

    name: str
    originals: list[Tensor]
    compute: Callable[[], Tensor]
    by: str


def bake(model: nn.Module) -> Baked:
    """Make every parametrised tensor a plain parameter that holds its value in evaluation mode.

    That is done for `torch.nn.utils.parametrize`, and for the hooks of weight norm, spectral norm and pruning. Only
    `measured` puts the model back, so that is where this belongs.

    Args:
        model: In `measured`.
    """
    free: dict[str, Tensor] = {}
    kinds: list[str] = []
    for prefix, module in modules_of(model).items():
        if isinstance(module, parametrize.ParametrizationList):
            continue
        with evaluating(module), torch.no_grad():
            found = [(one, one.compute().detach().clone()) for one in _computed(module)]
            movable = [_movable(one, value) for one, value in found]
        for (one, value), moves in zip(found, movable, strict=True):
            kinds.append(one.by)
            if not bool(moves.all()):
                free[f"{prefix}.{one.name}" if prefix else one.name] = moves
            _install(module, one, value)
    count = {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}
    return Baked(free, tuple(_note(kind, n) for kind, n in count.items()))


def _note(kind: str, count: int) -> str:
    of = f"{count} weight{'s' if count > 1 else ''} under {kind}"
    if kind in ("WeightNorm", "_WeightNorm"):
        return f"directions move {of} as the layers compute with them, not the lengths g and directions v"
    return (
        f"directions move {of} as the layers compute with them, not what they are computed from: away from the centre "
        f"there may be points that {kind} never gives"
    )


def _computed(module: nn.Module) -> list[_Computed]:
    """Return the tensors that a module computes from others before it uses them."""
    found: list[_Computed] = []
    held: Any = module
    if parametrize.is_parametrized(module):
        for name, chain in held.parametrizations.items():
            kinds = [type(step).__name__ for step in chain]
            originals = [t for t in (*chain._parameters.values(), *chain._buffers.values()) if t is not None]
            found.append(_Computed(name, originals, chain, " and ".join(kinds)))
    for hook in held._forward_pre_hooks.values():
        if isinstance(hook, _HOOKS):
            name = _tensor_of(hook)
            ends = ("_g", "_v") if isinstance(hook, WeightNorm) else ("_orig",)
            originals = [getattr(module, name + end) for end in ends]
            found.append(_Computed(name, originals, _by_hook(hook, module, name), type(hook).__name__))
    return found


def _tensor_of(hook: Any) -> str:
    return hook._tensor_name if isinstance(hook, BasePruningMethod) else hook.name


def _by_hook(hook: Any, module: nn.Module, name: str) -> Callable[[], Tensor]:
    def compute() -> Tensor:
        hook(module, None)
        return getattr(module, name)

    return compute


def _movable(one: _Computed, value: Tensor) -> Tensor:
    """Return which entries of a computed tensor change with what it is computed from: of a pruned one not all."""
    if not value.is_floating_point():
        return torch.ones_like(value, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    own = [t.data for t in one.originals]
    try:
        for t in one.originals:
            if t.is_floating_point():
                noise = torch.randn(t.shape, generator=generator).to(t)
                t.data = t.data + noise * (1 + t.data.abs())
        return one.compute() != value
    finally:
        for t, data in zip(one.originals, own, strict=True):
            t.data = data


def _install(module: nn.Module, one: _Computed, value: Tensor) -> None:
    """Put a plain tensor into the place of a computed one, before the module's other parameters."""
    held: Any = module
    chains = held._modules.get("parametrizations")
    if chains is not None and one.name in chains:
        del chains[one.name]
        if not len(chains):  # the class that torch made has the tensors as properties
            del held._modules["parametrizations"]
            module.__class__ = type(module).__bases__[0]
    else:
        for key, hook in list(held._forward_pre_hooks.items()):
            if isinstance(hook, _HOOKS) and one.name == _tensor_of(hook):
                del held._forward_pre_hooks[key]
        for end in ("_g", "_v", "_orig"):
            held._parameters.pop(one.name + end, None)
        vars(module).pop(one.name, None)
    if not any(isinstance(t, nn.Parameter) for t in one.originals):
        held._buffers[one.name] = value
        return
    plain = nn.Parameter(value, requires_grad=any(t.requires_grad for t in one.originals))
    others = dict(held._parameters)
    held._parameters.clear()
    held._parameters.update({one.name: plain, **others})
    names = getattr(module, "_flat_weights_names", [])
    if one.name in names:  # recurrent layers keep their weights in a list as well
        held._flat_weights[names.index(one.name)] = plain

"""What differs between a model and other checkpoints of it: weights that move along a plane, and buffers."""

# Which buffers are stored is kept in a private set.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from sharpkit.core.vec import Vec
from sharpkit.diagnostics.measured import modules_of, scaled_to_max_norm
from sharpkit.errors import InputError

State = Mapping[str, Tensor]
"""Weights and buffers of a checkpoint, by name."""

_COUNTER = "num_batches_tracked"
"""A buffer that no loss in evaluation mode depends on."""

_SHOWN = 4


def moving(model: nn.Module, states: Mapping[str, State]) -> dict[str, nn.Parameter]:
    """Return the parameters that planes through checkpoints move: the trained ones, and frozen ones that differ."""
    return {
        name: p
        for name, p in model.named_parameters()
        if p.requires_grad or any(bool((_of(state, name, p, where) != p).any()) for where, state in states.items())
    }


def difference(model: nn.Module, params: Mapping[str, nn.Parameter], state: State, where: str) -> Vec:
    """Return the weights of a checkpoint minus w, aligned with `params`.

    Args:
        model: At w, in `measured`.
        params: Some of its parameters, by name.
        state: Of the checkpoint.
        where: The checkpoint's name.

    Raises:
        InputError: If one of them is missing or of another shape.
    """
    return [scaled_to_max_norm(model, name, _of(state, name, p, where)) - p.detach() for name, p in params.items()]


def buffer_differences(model: nn.Module, states: Mapping[str, State]) -> tuple[dict[str, Tensor], ...]:
    """Return the floating-point buffers of checkpoints minus the model's, by name, as far as some checkpoint differs.

    A buffer that a checkpoint lacks counts as the model's own. Without any that differ there is nothing at all.
    """
    floats = {name: b for name, b in model.named_buffers() if b.is_floating_point()}
    moved = [
        {name: _of(state, name, b, where) - b if name in state else torch.zeros_like(b) for name, b in floats.items()}
        for where, state in states.items()
    ]
    differing = [name for name in floats if any(bool((d[name] != 0).any()) for d in moved)]
    return tuple({name: d[name] for name in differing} for d in moved) if differing else ()


def unmoved(model: nn.Module, states: Mapping[str, State], *, moved: bool) -> tuple[str, ...]:
    """Return notes on the buffers that stay the model's own although they differ, or are not in a checkpoint.

    Args:
        model: At w.
        states: Of the checkpoints.
        moved: Whether floating-point buffers move.
    """
    notes: list[str] = []
    kept = dict(_persistent(model))
    for where, state in states.items():
        missing = [name for name in kept if name not in state]
        if missing:
            notes.append(f"{where} lacks {_listed(missing)}: the model's own are used")
    differing = [
        name
        for name, b in kept.items()
        if not (moved and b.is_floating_point())
        and any(name in state and not torch.equal(_of(state, name, b, where), b) for where, state in states.items())
    ]
    if differing:
        notes.append(
            f"the checkpoints differ in {_listed(differing)}: at every point the centre's are used, or statistics that "
            "are recomputed there"
        )
    return tuple(notes)


def _persistent(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for prefix, module in modules_of(model).items():
        for name, b in module._buffers.items():
            if b is not None and name not in module._non_persistent_buffers_set and name != _COUNTER:
                yield (f"{prefix}.{name}" if prefix else name), b


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"buffer{'s' if len(names) > 1 else ''} {', '.join(names[:_SHOWN])}{more}"


def _of(state: State, name: str, like: Tensor, where: str) -> Tensor:
    if name not in state or state[name].shape != like.shape:
        raise InputError(f"{where} has no {name} of shape {tuple(like.shape)}", "give checkpoints of the same model")
    return state[name].detach().to(like)

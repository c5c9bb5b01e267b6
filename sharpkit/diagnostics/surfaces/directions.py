"""Random directions in weight space, and the norms they are given: of filters, of layers, or none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sharpkit.core.base import owners
from sharpkit.core.filters import filters, spread
from sharpkit.core.vec import Vec
from sharpkit.diagnostics.measured import as_it_was
from sharpkit.diagnostics.surfaces.effective import bake
from sharpkit.recipes.sam_on import NORMALISATIONS

Norm = Literal["filter", "layer", "none"]
"""What of a direction gets the norm of the weights: every filter, every tensor, or nothing."""

Ignore = Literal["biasbn", "none"]
"""Whether a direction leaves biases and the parameters of normalisation layers alone."""


def movable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that directions move, by name: those that are trained, tied ones once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@as_it_was
def random_directions(
    model: nn.Module, count: int, *, norm: Norm = "filter", ignore: Ignore = "biasbn", seed: int = 0
) -> list[Vec]:
    """Return directions d with entries from N(0, 1), each filter d_i scaled to |w_i| with `norm="filter"`.

    Li, Xu, Taylor, Studer and Goldstein (2018), "Visualizing the Loss Landscape of Neural Nets", section 4. A filter is
    what computes one output channel or feature; see `sharpkit.core.filters`. Tensors of one axis are a filter each, and
    so are those whose filters have a single entry, which would all vanish together at -1 or 1; the authors' code copies
    the weights themselves in place of the former, in every direction alike.

    Directions move the weights that layers compute with. Where a weight is computed from other parameters, as under
    weight norm, spectral norm or pruning, they are those of the network with that weight in their place; see
    `sharpkit.diagnostics.surfaces.effective`. Entries that the parametrization keeps, as pruned ones, stay.

    The numbers are drawn on the CPU in double precision, for ignored tensors too. So they depend neither on the device
    nor on the other options.

    Args:
        model: At w; comes back as it was.
        count: How many directions.
        norm: `filter`; `layer` scales every tensor to the norm of its weights; `none` leaves N(0, 1).
        ignore: `biasbn` sets directions to zero for tensors of at most one axis, in normalisation layers, and for
            attention's biases of keys and values.
        seed: Of all directions; the first of two is the first of one.
    """
    free, generator = bake(model).free, torch.Generator().manual_seed(seed)
    directions: list[Vec] = []
    for _ in range(count):
        drawn: Vec = []
        for name, p in movable(model).items():
            d = torch.randn(p.shape, generator=generator, dtype=torch.float64)
            drawn.append(d * free[name].cpu() if name in free else d)
        directions.append(normalised(drawn, model, norm=norm, ignore=ignore))
    return directions


def normalised(direction: Sequence[Tensor], model: nn.Module, *, norm: Norm, ignore: Ignore) -> Vec:
    """Return a direction with the norms that are asked for, in the types and on the devices of the parameters.

    Args:
        direction: Aligned with the parameters that it moves.
        model: At w.
        norm: What gets the norm of the weights.
        ignore: What is set to zero.
    """
    params = movable(model)
    scaled: Vec = []
    for (name, weight), d, owner in zip(params.items(), direction, owners(model, list(params.values())), strict=True):
        if ignore == "biasbn" and _is_left_alone(name, weight, owner):
            scaled.append(torch.zeros_like(weight, requires_grad=False))
            continue
        d = d.detach().to("cpu", torch.float64)
        if norm != "none":
            w = weight.detach().to("cpu", torch.float64)
            d = d * (_spread(w, w, owner, norm) / _spread(d, w, owner, norm).clamp_min(_TINY))
        scaled.append(d.to(weight))
    return scaled


_TINY = 1e-300
"""Stands for the norm of a filter that is zero, which stays zero."""


def _spread(values: Tensor, like: Tensor, owner: nn.Module | None, norm: Norm) -> Tensor:
    """Return the norm of the filter or tensor that each entry is in, in a shape that broadcasts to the tensor's."""
    rows = filters(values, owner)
    # A filter of a single number has one direction only, its own, along which all of them vanish at once.
    if norm == "layer" or rows.shape[1] == 1:
        return values.square().sum().sqrt()
    return spread(rows.square().sum(1).sqrt(), like, owner)


def _is_left_alone(name: str, weight: Tensor, owner: nn.Module | None) -> bool:
    """Return whether a parameter shifts or scales a layer's outputs, whatever its axes."""
    if weight.dim() <= 1 or isinstance(owner, NORMALISATIONS):
        return True
    own = name.rpartition(".")[2]
    if isinstance(owner, nn.MultiheadAttention) and own in ("bias_k", "bias_v"):
        return True
    return own == "weight_g" or any(f".{chain}.original0" in f".{name}" for chain in _lengths(owner))


def _lengths(owner: nn.Module | None) -> list[str]:
    """Return the names of the parametrizations of a layer that keep the lengths of filters apart: weight norm's g."""
    if owner is None or not parametrize.is_parametrized(owner):
        return []
    chains = cast("nn.ModuleDict", owner.parametrizations).items()
    return [
        f"parametrizations.{name}"
        for name, chain in chains
        if any(type(step).__name__ == "_WeightNorm" for step in chain.children())
    ]

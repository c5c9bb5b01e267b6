"""Random directions in weight space, and the norms they are given: of filters, of layers, or none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from sharpkit.core.base import owners
from sharpkit.core.vec import Vec
from sharpkit.recipes.sam_on import NORMALISATIONS

Norm = Literal["filter", "layer", "none"]
"""What of a direction gets the norm of the weights: every filter, every tensor, or nothing."""

Ignore = Literal["biasbn", "none"]
"""Whether a direction leaves biases and the parameters of normalisation layers alone."""

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def movable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that directions move, by name: those that are trained, tied ones once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def random_directions(
    model: nn.Module, count: int, *, norm: Norm = "filter", ignore: Ignore = "biasbn", seed: int = 0
) -> list[Vec]:
    """Return directions d with entries from N(0, 1), each filter d_i scaled to |w_i| with `norm="filter"`.

    Li, Xu, Taylor, Studer and Goldstein (2018), "Visualizing the Loss Landscape of Neural Nets", section 4. A filter is
    what computes one output channel or feature: of a linear layer and of attention's joint projection a row of the
    weight, of a convolution the kernels of a channel, in a transposed one too. Tensors of one axis are a filter each;
    the authors' code copies the weights themselves in their place, in every direction alike.

    The numbers are drawn on the CPU in double precision, for ignored tensors too. So they depend neither on the device
    nor on the other options.

    Args:
        model: At w.
        count: How many directions.
        norm: `filter`; `layer` scales every tensor to the norm of its weights; `none` leaves N(0, 1).
        ignore: `biasbn` sets directions to zero for tensors of at most one axis and in normalisation layers.
        seed: Of all directions; the first of two is the first of one.
    """
    generator = torch.Generator().manual_seed(seed)
    directions: list[Vec] = []
    for _ in range(count):
        drawn = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in movable(model).values()]
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
    params = list(movable(model).values())
    scaled: Vec = []
    for weight, d, owner in zip(params, direction, owners(model, params), strict=True):
        if ignore == "biasbn" and (weight.dim() <= 1 or isinstance(owner, NORMALISATIONS)):
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


def filters(weight: Tensor, owner: nn.Module | None) -> Tensor:
    """Return a weight as (filters, entries of a filter)."""
    if weight.dim() <= 1:
        return weight.reshape(1, -1)
    if isinstance(owner, _TRANSPOSED):
        return grouped(weight, owner).transpose(1, 2).reshape(weight.shape[1] * owner.groups, -1)
    return weight.reshape(weight.shape[0], -1)


def grouped(weight: Tensor, owner: nn.Module | None) -> Tensor:
    """Return the weight of a transposed convolution as (groups, inputs, outputs, kernel)."""
    groups = cast("nn.ConvTranspose2d", owner).groups
    return weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)


def _spread(values: Tensor, like: Tensor, owner: nn.Module | None, norm: Norm) -> Tensor:
    """Return the norm of the filter or tensor that each entry is in, in a shape that broadcasts to the tensor's."""
    if norm == "layer" or like.dim() <= 1:
        return _norm(values, tuple(range(like.dim())))
    rest = (1 for _ in like.shape[2:])
    if isinstance(owner, _TRANSPOSED):
        norms = _norm(grouped(values, owner), (1, 3)).expand(-1, like.shape[0] // owner.groups, -1, -1)
        return norms.reshape(like.shape[0], like.shape[1], *rest)
    return _norm(filters(values, owner), (1,)).reshape(-1, 1, *rest)


def _norm(values: Tensor, axes: tuple[int, ...]) -> Tensor:
    return values.square().sum(axes, keepdim=bool(axes)).sqrt()

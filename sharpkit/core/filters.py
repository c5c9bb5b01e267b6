"""What a filter of a weight is: the entries that make one output of the layer that holds it.

Layers that have their outputs along the first axis need no entry here: linear ones, convolutions with or without
groups, bilinear ones, attention's projections (joint or apart), and recurrent ones, where a row makes one unit of one
gate. Of an embedding the first axis counts the tokens, so that a filter is what stands for one token. Transposed
convolutions have their outputs along the second axis, in each group anew. So has the `Conv1D` of transformers, which is
a linear layer with the inputs first.
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def filters(weight: Tensor, owner: nn.Module | None) -> Tensor:
    """Return a tensor as (filters, entries of a filter); one of at most one axis is a single filter.

    Args:
        weight: A parameter, or what is aligned with it.
        owner: The layer that computes with it, None if there is none.
    """
    groups = _groups(weight, owner)
    if groups:
        return _grouped(weight, groups).transpose(1, 2).reshape(groups * weight.shape[1], -1)
    return weight.reshape(weight.shape[0] if weight.dim() > 1 else 1, -1)


def spread(values: Tensor, weight: Tensor, owner: nn.Module | None) -> Tensor:
    """Return one value a filter, (filters,), in a shape that broadcasts to the tensor's.

    Args:
        values: In the order of `filters`.
        weight: The tensor that has the filters.
        owner: As for `filters`.
    """
    rest = [1] * (weight.dim() - 2)
    groups = _groups(weight, owner)
    if groups == 1:
        return values.reshape(1, -1, *rest)
    if groups:
        shape = (groups, weight.shape[0] // groups, weight.shape[1])
        return values.reshape(groups, 1, -1).expand(shape).reshape(weight.shape[0], weight.shape[1], *rest)
    return values.reshape(-1, 1, *rest) if weight.dim() > 1 else values.reshape(())


def gathered(spread_out: Tensor, weight: Tensor, owner: nn.Module | None) -> Tensor:
    """Return the values (filters,) that `spread` has put into a shape."""
    groups = _groups(weight, owner)
    return _grouped(spread_out, groups)[:, 0].reshape(-1) if groups > 1 else spread_out.reshape(-1)


def count(weight: Tensor, owner: nn.Module | None) -> int:
    """Return the number of filters of a tensor."""
    groups = _groups(weight, owner)
    return groups * weight.shape[1] if groups else weight.shape[0] if weight.dim() > 1 else 1


def _groups(weight: Tensor, owner: nn.Module | None) -> int:
    """Return the groups of a weight with its outputs along the second axis; 0 of one that has them along the first."""
    if weight.dim() < 2:
        return 0
    if isinstance(owner, _TRANSPOSED):
        return owner.groups if weight.shape[0] % owner.groups == 0 else 1
    return 1 if type(owner).__name__ == "Conv1D" and isinstance(cast("Any", owner).nf, int) else 0


def _grouped(weight: Tensor, groups: int) -> Tensor:
    """Return a weight as (groups, inputs of a group, outputs of a group, kernel)."""
    return weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)

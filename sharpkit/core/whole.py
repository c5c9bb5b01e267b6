"""What is remembered of sharded parameters as of whole ones, and back: a checkpoint fits any number of ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor
from torch.optim import Optimizer

from sharpkit.core.shards import distributed, is_sharded, whole
from sharpkit.core.task import map_tensors
from sharpkit.errors import InputError


def collected(tree: Any, *, keep: bool) -> Any:
    """Return nested plain data with every sharded tensor in it whole and on the CPU; every rank takes part.

    Args:
        tree: The same on every rank, but for the shards.
        keep: Whether this rank wants the whole tensors; else they are dropped as they come.
    """

    def one(t: Tensor) -> Tensor:
        if not is_sharded(t):
            return t
        every = whole(t)
        return every.cpu() if keep else every.new_empty(0)

    return map_tensors(one, tree)


def dealt(tree: Any, params: Sequence[Tensor]) -> Any:
    """Return nested plain data in which every vector, aligned with sharded parameters shape by shape, lies as they do.

    Args:
        tree: The same on every rank; a vector in it is a list of whole tensors.
        params: The sharded parameters.
    """
    if isinstance(tree, Mapping):
        return {key: dealt(value, params) for key, value in cast("Mapping[Any, Any]", tree).items()}
    if not isinstance(tree, list):
        return tree
    values = cast("list[Any]", tree)
    if not _is_aligned(values, params):
        return values
    return [t if t is None or is_sharded(t) else distributed(t, p) for t, p in zip(values, params, strict=True)]


def dealt_base(stored: Mapping[str, Any], base: Optimizer) -> dict[str, Any]:
    """Return a base optimizer's state dict of whole tensors with those that lie as its sharded parameters do.

    Raises:
        InputError: If there are tensors of other shapes than their parameter's.
    """
    numbers = [number for group in stored["param_groups"] for number in group["params"]]
    params = [p for group in base.param_groups for p in group["params"]]
    place = dict(zip(numbers, params, strict=True))
    state = {
        n: {key: _beside(value, place[n], key) for key, value in held.items()} for n, held in stored["state"].items()
    }
    return {**stored, "state": state}


def _beside(value: Any, param: Tensor, key: str) -> Any:
    if not isinstance(value, Tensor) or value.dim() == 0:
        return value
    if value.shape != param.shape:
        raise InputError(
            f"the base optimizer keeps {key} of shape {tuple(value.shape)} for a parameter of shape "
            f"{tuple(param.shape)}, which cannot be sharded alike",
            "use SGD, Adam or AdamW with sharded parameters",
        )
    return distributed(value, param) if is_sharded(param) else value


def _is_aligned(values: list[Any], params: Sequence[Tensor]) -> bool:
    return len(values) == len(params) and all(
        value is None or (isinstance(value, Tensor) and value.shape == p.shape)
        for value, p in zip(values, params, strict=True)
    )

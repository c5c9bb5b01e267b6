"""The parameters that are trained at the moment, and everything that is aligned with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sharpkit.core.accumulated import drop_used
from sharpkit.core.base import trainable
from sharpkit.core.comm import AscentScope, Comm
from sharpkit.core.fully_sharded import FullySharded, free, sharding
from sharpkit.core.pairs import any_complex, as_real
from sharpkit.core.parameters import check_groups, check_parameters
from sharpkit.core.slots import NewEntry
from sharpkit.errors import UsageError


@dataclass
class TrainedParameters:
    """Those parameters of the base optimizer that require a gradient, in the model's order.

    The set may change between steps: parameters are frozen and unfrozen, and groups are added. `update` takes it as it
    is then.

    Args:
        model: The model.
        base: The base optimizer, which holds the parameters.
        recipe: The recipe in full.
        comm: The ranks that a batch lies on.
        scope: Whose gradient is climbed.
        several: Whether gradients go from rank to rank, or are computed on several streams.
    """

    model: nn.Module
    base: Optimizer
    recipe: str
    comm: Comm
    scope: AscentScope
    several: bool

    def __post_init__(self) -> None:
        self.names: list[str] = []
        self.params: list[Tensor] = []  # the same list for good, since the optimizer's state refers to it
        self.sharded: FullySharded | None = None
        self._ids: list[int] = []
        self._ever: set[int] = set()
        self._take()

    def changed(self) -> bool:
        """Return whether the set is another than when it was last taken."""
        return self._held() != self._ids

    def update(self) -> list[str]:
        """Take the set as it is now, and return the names of the set before.

        Raises:
            UsageError: If it is empty, or has a parameter that cannot be trained.
        """
        if not any(p.requires_grad for group in self.base.param_groups for p in group["params"]):
            raise UsageError("no parameter of the base optimizer is trainable any more", "unfreeze some")
        before, params = list(self.names), list(self.params)
        self._take()
        trained = {id(p) for p in self.params}
        drop_used([p for p in params if id(p) not in trained])
        return before

    def as_real(self) -> Sequence[Tensor]:
        """Return the parameters as rules see them, complex ones as pairs of real numbers."""
        return as_real(self.params) if any_complex(self.params) else self.params

    def _held(self) -> list[int]:
        return [id(p) for group in self.base.param_groups for p in group["params"] if p.requires_grad]

    def _take(self) -> None:
        check_groups(self.base, self.recipe)
        free(self.model)
        names, params = trainable(self.model, self.base)
        check_parameters(names, params, several=self.several)
        sharded = sharding(self.model, names, params, self.comm, self.scope)
        if sharded is not None and self.sharded is not None:
            for name, p in zip(names, params, strict=True):
                if id(p) not in self._ever:
                    raise UsageError(
                        f"parameter {name} of a fully sharded model was frozen when the optimizer was built, and its "
                        "passes would give it no gradient",
                        "unfreeze it before fully_shard, or build model and optimizer anew",
                    )
            sharded.lost = self.sharded.lost
        self.names[:], self.params[:], self.sharded = names, params, sharded
        self._ids = self._held()
        self._ever.update(self._ids)


@torch.no_grad()
def realigned(
    memory: Mapping[str, Any],
    before: Sequence[str],
    names: Sequence[str],
    params: Sequence[Tensor],
    new: Mapping[str, NewEntry | None],
) -> dict[str, Any]:
    """Return a rule's memory aligned with other parameters: entries of those that have left are dropped.

    Args:
        memory: By `owner/key`; lists with one entry a parameter are aligned.
        before: Names of the parameters that it is aligned with.
        names: Names of the parameters that it is to be aligned with.
        params: These parameters, as rules see them.
        new: By key, what a parameter that joins begins with; None says that a list is not by parameter. A list of
            tensors without an entry is by parameter if their shapes are those of the parameters, and begins at zero.
    """
    place = {name: i for i, name in enumerate(before)}
    shapes = {name: p.shape for name, p in zip(names, params, strict=True)}

    def aligned(value: list[Any]) -> bool:
        pairs = zip(before, value, strict=True)
        return all(isinstance(t, Tensor) and t.shape == shapes.get(name, t.shape) for name, t in pairs)

    found: dict[str, Any] = {}
    for key, value in memory.items():
        bare = key.partition("/")[2]
        start = new.get(bare, torch.zeros_like)
        if isinstance(value, list) and start is not None and len(cast("list[Any]", value)) == len(before):
            entries = cast("list[Any]", value)
            if bare in new or aligned(entries):
                value = [entries[place[n]] if n in place else start(p) for n, p in zip(names, params, strict=True)]
        found[key] = value
    return found

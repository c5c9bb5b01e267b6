"""Gradients that a caller has accumulated on the parameters before a step, which the step would drop."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sharpkit.core.shards import local
from sharpkit.errors import UsageError

_VERSION = "_sharpkit_version"


class Accumulated:
    """What a caller has accumulated since the last step; nothing where all of it is zero.

    Values are read, which waits for the device, only if there are gradients that no step has left.

    Args:
        names: Of the parameters.
        params: The parameters that a step trains.
    """

    def __init__(self, names: Sequence[str] = (), params: Sequence[Tensor] = ()) -> None:
        found = [
            (name, p, grad)
            for name, p in zip(names, params, strict=True)
            if (grad := p.grad) is not None and getattr(grad, _VERSION, None) != grad._version
        ]
        self._found = found if any(_is_anywhere_nonzero(grad) for _, _, grad in found) else []
        self._copies: list[tuple[Tensor, Tensor]] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    def lay_out(self) -> None:
        """Give the parameters copies, which a closure that accumulates adds to and one that zeroes removes."""
        self._copies = [(p, grad.clone()) for _, p, grad in self._found]
        for p, grad in self._copies:
            p.grad = grad

    def check_removed(self) -> None:
        """Refuse a closure that has not zeroed the gradients, and forget them if it has.

        Raises:
            UsageError: If so.
        """
        if any(p.grad is grad for p, grad in self._copies):
            self.refuse("call opt.zero_grad() before step() or in the closure, or make them part of the closure's loss")
        self._found, self._copies = [], []

    def put_back(self) -> None:
        """Give the parameters what was found."""
        for _, p, grad in self._found:
            p.grad = grad

    def refuse(self, remedy: str) -> None:
        """Raise, if there is anything.

        Raises:
            UsageError: If so.
        """
        if not self._found:
            return
        others = len(self._found) - 1
        more = f" and {others} other parameter{'s' if others > 1 else ''}" if others else ""
        raise UsageError(
            f"a backward() before step() has left gradients on {self._found[0][0]}{more}, which step() would drop",
            remedy,
        )


def mark_as_used(params: Sequence[Tensor]) -> None:
    """Mark the gradients on the parameters, as they are now, as those that the base optimizer has stepped with."""
    for p in params:
        if (grad := p.grad) is not None:
            setattr(grad, _VERSION, grad._version)  # autograd counts what changes a tensor in place


def drop_used(params: Sequence[Tensor]) -> None:
    """Drop the gradients that steps have left on parameters, which the base optimizer would step with again."""
    for p in params:
        if getattr(p.grad, _VERSION, None) is not None:
            p.grad = None


def _is_anywhere_nonzero(grad: Tensor) -> bool:
    with torch.no_grad():
        (dense,) = local([grad if grad.layout is torch.strided else grad.to_dense()])
        return bool(dense.any())

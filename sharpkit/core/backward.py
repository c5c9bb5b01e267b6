"""Backward passes: gradients taken off the parameters, and summed over the ranks that a batch lies on."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from sharpkit.core import vec
from sharpkit.core.comm import Comm
from sharpkit.core.fully_sharded import FullySharded
from sharpkit.core.pairs import any_complex, as_real
from sharpkit.core.passes import Touched
from sharpkit.core.precision import Precision
from sharpkit.core.reduction import Reduction
from sharpkit.core.sparse_rows import SparseRows
from sharpkit.core.vec import Vec
from sharpkit.errors import UsageError

REENTRANT = (
    "the model checkpoints activations with use_reentrant=True, which does not differentiate by chosen parameters",
    "call checkpoint(..., use_reentrant=False), or of Hugging Face's models "
    'gradient_checkpointing_enable({"use_reentrant": False})',
)
"""Message and hint of the error for such a model."""


def is_of_reentrant_checkpoint(error: BaseException) -> bool:
    """Return whether torch says that a checkpoint does not allow to choose what is differentiated by."""
    return "use_reentrant" in str(error)


class Backward:
    """Makes gradients of scalars, aligned with the parameters.

    Args:
        params: What is differentiated by.
        comm: The ranks whose gradients are added up.
        precision: Scales the loss.
        sharded: How to pass through the model if its parameters are sharded; their gradients come summed.
    """

    def __init__(
        self, params: Sequence[Tensor], comm: Comm, precision: Precision, sharded: FullySharded | None
    ) -> None:
        self.rows = SparseRows()
        self.complex = any_complex(params)
        self._params = list(params)
        self._precision = precision
        self._sharded = sharded
        self._reduction = Reduction(comm, self._params) if comm.size > 1 and sharded is None else None

    def gradient(
        self,
        loss: Tensor,
        reached: list[bool],
        only: Sequence[Touched] | None,
        before: Vec | None,
        *,
        keep_graph: bool,
        last: bool,
    ) -> Vec:
        """Return the gradient of a part of the loss, with that of the parts before it, of all ranks if it is the last.

        Args:
            loss: (), of some samples.
            reached: Is set where there is a gradient.
            only: The parameters, or rows of them, to differentiate by; None is all.
            before: The sum of the gradients so far; changed in place.
            keep_graph: Whether there is more to differentiate.
            last: Whether the sum is complete, and leaves for the other ranks as it comes.

        Raises:
            UsageError: If the loss does not depend on any parameter.
        """
        with self._sending(only, before, last=last) as receive:
            grads = self._pass(loss, keep_graph, reached, only)
            if before is not None:
                vec.add_(grads, before)
            return receive(grads)

    def of_none(self, only: Sequence[Touched] | None, reached: list[bool]) -> Vec:
        """Return the gradient of a batch none of whose samples is here; it reaches parameters on the other ranks."""
        assert self._reduction is not None
        wanted = self._wanted(only)
        for i in (i for i, flag in enumerate(wanted) if flag):
            reached[i] = True
        return self._reduction.all_at_once(vec.zeros_like(self._params), wanted)

    def summed(self, grads: Vec) -> Vec:
        """Return the sum over the ranks of gradients that are there."""
        return grads if self._reduction is None else self._reduction.all_at_once(grads, self._wanted(None))

    @contextmanager
    def _sending(
        self, only: Sequence[Touched] | None, before: Vec | None, *, last: bool
    ) -> Generator[Callable[[Vec], Vec]]:
        """Add up the gradients of all ranks while the last backward pass runs; yields what waits for them."""
        if self._reduction is None or not last:
            yield lambda grads: grads
            return
        try:
            self._reduction.begin(self._wanted(only), before)
            yield self._reduction.end
        finally:
            self._reduction.stop()

    def _wanted(self, only: Sequence[Touched] | None) -> list[bool]:
        return [p.requires_grad and (only is None or only[i] is not False) for i, p in enumerate(self._params)]

    def _pass(self, loss: Tensor, keep_graph: bool, reached: list[bool], only: Sequence[Touched] | None) -> Vec:
        self.clear()
        wanted = [p for p, flag in zip(self._params, self._wanted(only), strict=True) if flag]
        if not wanted:
            return self.take(reached)
        if not loss.requires_grad:
            raise _no_graph()
        with torch.enable_grad():
            scaled = self._precision.scale(loss)
        if self._sharded is not None:
            self._sharded.backward(scaled, keep_graph)
            self.clear(but=wanted)
        else:
            try:
                # Only these: what else requires a gradient is not ours to fill, and its weight gradients need no time.
                scaled.backward(retain_graph=keep_graph, inputs=wanted)  # pyright: ignore[reportUnknownMemberType]
            except RuntimeError as error:
                if not is_of_reentrant_checkpoint(error):
                    raise
                raise UsageError(*REENTRANT) from error
        grads = self.take(reached)
        if only is None and not any(reached):
            raise _no_graph()
        return grads

    def clear(self, but: Sequence[Tensor] = ()) -> None:
        """Leave no gradient on the parameters, but for some."""
        kept = {id(p) for p in but}
        for p in self._params:
            if id(p) not in kept:
                p.grad = None

    def take(self, reached: list[bool]) -> Vec:
        """Take the gradients off the parameters, complex ones as pairs, zeros where there is none, and note where."""
        grads: Vec = []
        for i, p in enumerate(self._params):
            grad, p.grad = p.grad, None
            if grad is None:
                grad = torch.zeros_like(p, requires_grad=False)
            else:
                reached[i] = True
            if grad.layout is not torch.strided:
                self.rows.note(i, grad)
                grad = grad.to_dense()
            grads.append(grad)
        return as_real(grads) if self.complex else grads


def _no_graph() -> UsageError:
    return UsageError(
        "the loss does not depend on any parameter of the base optimizer",
        "build the base optimizer with this model's parameters(), and do not detach outputs or losses",
    )

"""Rows of embeddings that sparse gradients reach, for a base optimizer that steps those rows only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sharpkit.errors import UsageError


class SparseRows:
    """The rows that the gradients of a step had, by the position of their parameter."""

    def __init__(self) -> None:
        self._reached: dict[int, Tensor] = {}  # (rows,) booleans

    def forget(self) -> None:
        """Start a step."""
        self._reached.clear()

    def note(self, position: int, grad: Tensor) -> None:
        """Note the rows of a sparse gradient."""
        if grad.layout is not torch.sparse_coo or grad.sparse_dim() != 1:
            return
        rows = self._reached.setdefault(position, torch.zeros(len(grad), dtype=torch.bool, device=grad.device))
        rows[grad._indices()[0]] = True

    def make_sparse(self, names: Sequence[str], params: Sequence[Tensor]) -> None:
        """Replace gradients that were sparse by sparse ones, of the rows noted and those that are not zero.

        Waits for the device, as sizes must be known.

        Raises:
            UsageError: If there is a gradient that was not sparse.
        """
        for i, (name, p) in enumerate(zip(names, params, strict=True)):
            if p.grad is None:
                continue
            if i not in self._reached:
                raise UsageError(
                    f"base is SparseAdam, which takes sparse gradients only, and that of {name} is dense",
                    "use SGD, Adagrad or Adam, which take both",
                )
            (rows,) = (self._reached[i] | (p.grad != 0).reshape(len(p), -1).any(1)).nonzero(as_tuple=True)
            p.grad = torch.sparse_coo_tensor(
                rows[None], p.grad[rows], p.shape, is_coalesced=True, check_invariants=False
            )

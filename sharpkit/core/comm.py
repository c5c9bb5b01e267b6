"""What the ranks of a run tell each other; in a single process every exchange is the identity.

The engine talks to other processes through this interface only, so that no other part knows how many there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Comm(Protocol):
    """The exchanges that a step needs, in the order in which every rank makes them."""

    @property
    def rank(self) -> int:
        """This process's number, from 0."""
        ...

    @property
    def size(self) -> int:
        """How many processes there are."""
        ...

    def mean_(self, tensors: Sequence[Tensor]) -> None:
        """Replace every tensor by its mean over the ranks."""
        ...

    def any_(self, flag: Tensor) -> None:
        """Replace a 0-dim boolean by whether it holds on any rank."""
        ...

    def broadcast_(self, tensors: Sequence[Tensor]) -> None:
        """Replace every tensor by rank 0's."""
        ...


class SingleProcess:
    """One process: there is nobody to talk to."""

    rank: int = 0
    size: int = 1

    def mean_(self, tensors: Sequence[Tensor]) -> None:
        """Leave the tensors: they are their own mean."""

    def any_(self, flag: Tensor) -> None:
        """Leave the flag: this is the only rank."""

    def broadcast_(self, tensors: Sequence[Tensor]) -> None:
        """Leave the tensors: this is rank 0."""

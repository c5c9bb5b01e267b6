"""Symmetric matrices by their products with vectors, and matrices that are known entry by entry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from sharpkit.core.comm import ALONE, Comm


class Draw(Protocol):
    """Gives a term its vector, (P,); a term that is not on this rank draws too, so that all draw the same."""

    def __call__(self, used: bool = True) -> Tensor:
        """Return the vector; unless it is used, any."""
        ...


class Term(NamedTuple):
    """A_j v_j of one term of A = sum_j A_j, as far as its samples are on this rank, with their share of all samples."""

    number: int
    share: float
    vector: Tensor
    image: Tensor


class Operator(ABC):
    """A symmetric matrix that is known by its products with vectors.

    Args:
        size: Rows P.
        dtype: The type of vectors.
        device: Where vectors are.
        comm: The ranks that the terms are on.
    """

    def __init__(self, size: int, dtype: torch.dtype, device: torch.device, comm: Comm = ALONE) -> None:
        self.comm = comm
        self.size = size
        self.dtype = dtype
        self.device = device
        self.products = 0

    @abstractmethod
    def terms(self, draw: Draw) -> Iterator[Term]:
        """Yield A_j v_j, (P,), for every term of A = sum_j A_j, each with a vector of its own that is drawn for it.

        The terms are the same on any number of ranks; what they yield adds up over the ranks.
        """

    def lead(self) -> Tensor | None:
        """Return a vector, (P,), that is rich in the leading eigenvectors, if one is known; of any length."""
        return None

    @contextmanager
    def refined(self) -> Generator[None]:
        """Have more terms while the context lasts, where that is of use; their sum stays A."""
        yield

    def product(self, vector: Tensor) -> Tensor:
        """Return A v, (P,), of a flat vector (P,), the same on all ranks."""
        return self.summed(term.image for term in self.terms(lambda used=True: vector))

    def summed(self, images: Iterable[Tensor]) -> Tensor:
        """Return the sum, (P,), of the images of all terms, over all ranks; they are not used afterwards."""
        self.products += 1
        total: Tensor | None = None
        for image in images:
            total = image if total is None else total.add_(image)
        if total is None:
            total = torch.zeros(self.size, dtype=self.dtype, device=self.device)
        self.comm.sum_([total])
        return total


class Matrix(Operator):
    """A matrix that is there.

    Args:
        entries: (P, P), symmetric.
    """

    def __init__(self, entries: Tensor) -> None:
        super().__init__(entries.shape[0], entries.dtype, entries.device)
        self._entries = entries

    def terms(self, draw: Draw) -> Iterator[Term]:
        """Yield A v; there is one term."""
        vector = draw()
        yield Term(0, 1.0, vector, self._entries @ vector)

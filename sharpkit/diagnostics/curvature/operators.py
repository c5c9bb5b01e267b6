"""Curvature of a loss as a linear operator: products with a vector, never a matrix."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, NamedTuple, Protocol, get_args

import torch
from torch import Tensor

from sharpkit.core import vec
from sharpkit.core.buffers import Buffers
from sharpkit.core.comm import ALONE, Comm
from sharpkit.core.task import Batch
from sharpkit.diagnostics import memory
from sharpkit.diagnostics.curvature.differences import GradientDifference
from sharpkit.diagnostics.curvature.graphs import BUILDERS, Graph, require_second_derivative
from sharpkit.diagnostics.problem import Problem
from sharpkit.errors import InputError, UsageError, one_line

Kind = Literal["hessian", "ggn", "fisher"]
"""The Hessian, the generalised Gauss-Newton matrix, or the empirical Fisher matrix."""

Products = Literal["auto", "autograd", "fd"]
"""How products are made: by automatic differentiation, by finite differences of gradients, or by what is there."""

_PROBE = 16
"""Samples that the size of a graph is measured on."""

_REUSE = 0.25
"""The part of the budget that one graph that is built anew may take; its product needs as much again, and more."""


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


@dataclass(frozen=True)
class _Piece:
    """Samples of a term whose graph is in memory, or is built anew for every product."""

    term: int
    batch: Batch
    graph: Graph | None


class Curvature(Operator):
    """The curvature matrix of L(w) = 1/N sum_i l_i(w).

    `hessian` is d^2 L / dw^2 (Pearlmutter, 1994); `ggn` is 1/N sum_i J_i^T (d^2 l_i / df^2) J_i with the Jacobian J_i
    of the outputs f (Schraudolph, 2002); `fisher` is 1/N sum_i g_i g_i^T with the gradients g_i of single samples.
    With a weight decay lambda the matrix gets lambda I added.

    The terms are the problem's batches. Graphs of autograd are kept from product to product as long as they fit the
    memory; the others are built anew.

    Args:
        problem: What is differentiated; it must stay open. Each of its ranks multiplies by the terms of its samples.
        kind: Which matrix.
        weight_decay: lambda.
        memory_bytes: For graphs, on each rank; None takes half of what is free.
        products: `auto` takes finite differences where autograd has no second derivative, and notes it.
        finer: The same problem with more batches, which `refined` takes.
    """

    def __init__(
        self,
        problem: Problem,
        kind: Kind = "hessian",
        *,
        weight_decay: float = 0.0,
        memory_bytes: int | None = None,
        products: Products = "auto",
        finer: Problem | None = None,
    ) -> None:
        if kind not in get_args(Kind):
            raise UsageError(f"the matrix is {kind!r}, allowed are {', '.join(get_args(Kind))}", "use hessian")
        if products not in get_args(Products):
            raise UsageError(f"hvp is {products!r}, allowed are {', '.join(get_args(Products))}", "use auto")
        if products == "fd" and kind != "hessian":
            raise UsageError(f"hvp is fd and the matrix is {kind}, allowed is hessian", "use --hvp autograd")
        super().__init__(problem.size, problem.dtype, problem.device, problem.comm)
        self.notes: list[str] = []
        self.graph_bytes = 0
        self._problem = problem
        self._finer = finer
        self._build = BUILDERS[kind]
        self._kind = kind
        self._decay = weight_decay
        self._allowed = products
        self._differences = GradientDifference(problem) if products == "fd" else None
        self._budget = memory.available(problem.device, problem.comm) // 2 if memory_bytes is None else memory_bytes
        self._buffers = Buffers.of(problem.model)
        self._pieces: list[_Piece] | None = None
        self._kept = self._built = 0

    @property
    def how(self) -> str:
        """How products are made, in words."""
        if self._differences is not None:
            return f"finite differences, relative error about {self._differences.error:.1e}"
        return f"autograd, {self._kept} of {self._built} graphs kept"

    def lead(self) -> Tensor:
        """Return the gradient of L, which lies for the most part in a few leading eigenvectors.

        Gur-Ari, Roberts and Dyer (2018), "Gradient Descent Happens in a Tiny Subspace".
        """
        gradient = self._problem.gradient()
        self._buffers.put_back()
        return gradient

    @contextmanager
    def refined(self) -> Generator[None]:
        """Have a term for every batch of the finer problem. Graphs are built anew, for there is room for one set."""
        if self._finer is None or len(self._finer.batches) <= len(self._problem.batches):
            yield
            return
        held = self._problem
        self._problem, self._pieces, self.graph_bytes = self._finer, None, 0
        try:
            yield
        finally:
            self._problem, self._pieces, self.graph_bytes = held, None, 0

    def terms(self, draw: Draw) -> Iterator[Term]:
        """Yield A_j v_j for every batch j that has samples here, weighted by their share of all samples."""
        if self._differences is None:
            self._prepare()
        if self._differences is not None:
            vector = draw()
            image = self._decayed(self._differences.product(vector), vector, 1.0)
            if self.comm.rank == 0:  # what all ranks found together, once
                yield Term(0, 1.0, vector, image)
            return
        assert self._pieces is not None
        mine = {number: list(group) for number, group in groupby(self._pieces, lambda piece: piece.term)}
        for number in range(len(self._problem.batches)):
            vector = draw(number in mine)
            if number in mine:
                share = sum(piece.batch.size for piece in mine[number]) / self._problem.samples
                yield Term(number, share, vector, self._decayed(self._times(mine[number], vector), vector, share))

    def _times(self, pieces: Sequence[_Piece], vector: Tensor) -> Tensor:
        """Return the sum over the pieces of a term of their products with a vector."""
        problem, total = self._problem, None
        for piece in pieces:
            graph = piece.graph or self._build(problem, piece.batch)
            image = vec.flatten(graph(vec.unflatten(vector, problem.params), piece.graph is not None))
            total = image if total is None else total.add_(image)
            if problem.bn_mode == "train":
                self._buffers.put_back()
        assert total is not None
        return total

    def _decayed(self, part: Tensor, vector: Tensor, share: float) -> Tensor:
        return part.add_(vector, alpha=share * self._decay) if self._decay else part

    def _prepare(self) -> None:
        """Measure a graph, cut the samples to what fits, and keep as many graphs as fit."""
        if self._pieces is not None:
            return
        try:
            self._pieces = self._planned()
        except (RuntimeError, NotImplementedError) as error:
            if not _has_no_second_derivative(error):
                raise
            if self._allowed == "autograd" or self._kind != "hessian":
                raise InputError(
                    f"the model has no second derivative: {one_line(error)}", "use --hvp fd, which is approximate"
                ) from error
            self._differences = GradientDifference(self._problem)
            self.notes.append(f"finite differences were used, for autograd says: {one_line(error)}")
            return
        if self._problem is self._finer:
            return
        counts = sum(piece.graph is not None for piece in self._pieces), len(self._pieces)
        self._kept, self._built = (sum(every) for every in zip(*self.comm.objects(counts), strict=True))

    def _planned(self) -> list[_Piece]:
        problem, fixed = self._problem, self._problem.bn_mode == "train"
        first = problem.batches[0]
        probe = first if fixed else first.select_range(0, min(_PROBE, first.size))
        known = [*problem.params, *problem.model.buffers()]
        with memory.counted(known) as held:
            self._build(problem, probe, require_second_derivative)(vec.zeros_like(problem.params), False)
        if fixed:  # running statistics are put back after every batch, which a kept graph would not survive
            self._buffers.put_back()
            return [_Piece(number, batch, None) for number, batch in problem.here()]
        each = max(1, held.bytes // probe.size)
        total = each * sum(batch.size for _, batch in problem.here())
        whole = total <= self._budget
        most = max(1, int(self._budget * _REUSE) // each)
        room = self._budget if whole else self._budget - 2 * min(most, first.size) * each
        pieces: list[_Piece] = []
        for number, batch in problem.here():
            for part in batch.split(1 if whole else -(-batch.size // most)):
                cost = each * part.size
                keep = self.graph_bytes + cost <= room
                self.graph_bytes += cost if keep else 0
                pieces.append(_Piece(number, part, self._build(problem, part) if keep else None))
        return pieces


def _has_no_second_derivative(error: Exception) -> bool:
    text = str(error)
    known = ("derivative for", "not implemented", "once_differentiable", "double backward", "double backwards")
    return any(words in text for words in known)

"""Products with the Hessian, Gauss-Newton and Fisher matrix of a loss: graphs that are kept, and those built anew."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, get_args

from torch import Tensor

from sharpkit.core import vec
from sharpkit.core.buffers import Buffers
from sharpkit.core.task import Batch
from sharpkit.diagnostics import memory
from sharpkit.diagnostics.curvature.differences import GradientDifference
from sharpkit.diagnostics.curvature.graphs import BUILDERS, Graph, require_second_derivative
from sharpkit.diagnostics.curvature.operators import Draw, Operator, Term
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
        self.kind: Kind = kind
        self.weight_decay = weight_decay
        self._problem = problem
        self._finer = finer
        self._build = BUILDERS[kind]
        self._allowed = products
        self._differences = GradientDifference(problem) if products == "fd" else None
        self._budget = memory.available(problem.device, problem.comm) // 2 if memory_bytes is None else memory_bytes
        self._buffers = Buffers.of(problem.model)
        self._bytes_each: int | None = None
        self._pieces: list[_Piece] | None = None
        self._kept = self._built = 0

    @property
    def how(self) -> str:
        """How products are made, in words."""
        made = f"autograd, {self._kept} of {self._built} graphs kept"
        folds = self._problem.folding.pairs.how
        return ", ".join([made if self._differences is None else self._differences.how, *([folds] if folds else [])])

    @property
    def problem(self) -> Problem:
        """What is differentiated."""
        return self._problem

    @property
    def differs(self) -> bool:
        """Whether products are finite differences."""
        return self._differences is not None

    @property
    def may_differ(self) -> bool:
        """Whether products may become finite differences."""
        return self._allowed == "auto" and self.kind == "hessian" and self._problem.bn_mode == "eval"

    def take_differences(self, note: str) -> None:
        """Make products by finite differences from now on, and say so."""
        self._differences = GradientDifference(self._problem)
        self._forget()
        self.notes.append(note)

    def take_autograd(self) -> None:
        """Make products by autograd after all, and take back what was said when finite differences were chosen."""
        self._differences = None
        self._forget()
        self.notes.pop()

    def _forget(self) -> None:
        self._pieces, self._bytes_each, self.graph_bytes = None, None, 0

    def on(self, problem: Problem) -> Callable[[Tensor], Tensor]:
        """Return products of the same kind, made in the same way, of another problem that is on this rank alone."""
        differences = GradientDifference(problem) if self.differs else None

        def product(vector: Tensor) -> Tensor:
            if differences is not None:
                return self._decayed(differences.product(vector), vector, 1.0)
            pieces = [_Piece(0, batch, None) for batch in problem.batches]
            return self._decayed(self._times(pieces, vector, problem), vector, 1.0)

        return product

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
        self._problem = self._finer
        self._forget()
        try:
            yield
        finally:
            self._problem = held
            self._forget()

    def terms(self, draw: Draw) -> Iterator[Term]:
        """Yield A_j v_j for every batch j that has samples here, weighted by their share of all samples."""
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
                yield Term(
                    number,
                    share,
                    vector,
                    self._decayed(self._times(mine[number], vector, self._problem), vector, share),
                )

    def _times(self, pieces: Sequence[_Piece], vector: Tensor, problem: Problem) -> Tensor:
        """Return the sum over the pieces of a term of their products with a vector."""
        total: Tensor | None = None
        for piece in pieces:
            graph = piece.graph or self._build(problem, piece.batch)
            image = vec.flatten(graph(vec.unflatten(vector, problem.params), piece.graph is not None))
            total = image if total is None else total.add_(image)
            if problem.bn_mode == "train":
                self._buffers.put_back()
        assert total is not None
        return total

    def _decayed(self, part: Tensor, vector: Tensor, share: float) -> Tensor:
        return part.add_(vector, alpha=share * self.weight_decay) if self.weight_decay else part

    def probe(self) -> None:
        """Measure a graph of a few samples, and see that it has a second derivative; done once.

        Raises:
            InputError: If it has none, and finite differences are not allowed.
        """
        if self._bytes_each is not None or self._differences is not None:
            return
        try:
            self._bytes_each = self._measured()
        except (RuntimeError, NotImplementedError) as error:
            if not _has_no_second_derivative(error):
                raise
            if self._allowed == "autograd" or self.kind != "hessian":
                raise InputError(
                    f"the model has no second derivative: {one_line(error)}", "use --hvp fd, which is approximate"
                ) from error
            self.take_differences(f"finite differences were used, for autograd says: {one_line(error)}")

    def _measured(self) -> int:
        """Return the bytes of a graph for each sample."""
        problem, fixed = self._problem, self._problem.bn_mode == "train"
        first = problem.batches[0]
        few = first if fixed else first.select_range(0, min(_PROBE, first.size))
        known = [*problem.params, *problem.model.buffers()]
        with memory.counted(known) as held:
            self._build(problem, few, require_second_derivative)(vec.zeros_like(problem.params), False)
        if fixed:  # running statistics are put back after every batch
            self._buffers.put_back()
        return max(1, held.bytes // few.size)

    def _prepare(self) -> None:
        """Cut the samples to what fits, and keep as many graphs as fit; done once.

        From then on the model must not be given another type: autograd would no longer find the weights in the graphs.
        """
        self.probe()
        if self._pieces is not None or self._bytes_each is None or self._differences is not None:
            return
        self._pieces = self._planned(self._bytes_each)
        if self._problem is self._finer:
            return
        counts = sum(piece.graph is not None for piece in self._pieces), len(self._pieces)
        self._kept, self._built = (sum(every) for every in zip(*self.comm.objects(counts), strict=True))

    def _planned(self, each: int) -> list[_Piece]:
        problem = self._problem
        if problem.bn_mode == "train":  # a kept graph would not survive that running statistics are put back
            return [_Piece(number, batch, None) for number, batch in problem.here()]
        first = problem.batches[0]
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

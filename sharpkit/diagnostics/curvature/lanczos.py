"""Lanczos with full re-orthogonalisation on one basis, restarted when the basis may not grow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharpkit.diagnostics import reductions
from sharpkit.diagnostics.curvature.operators import Operator

Array = NDArray[np.float64]

_FIRST_ROWS = 24
_BREAKDOWN = 16
"""A new direction shorter than so many roundings of the matrix's norm is rounding and nothing else."""


@dataclass(frozen=True)
class Ritz:
    """Approximate eigenpairs: the eigenpairs of the matrix seen from the basis.

    Args:
        values: (m,), from the largest down.
        weights: (m, m); column i holds the coefficients of eigenvector i in the basis.
        bounds: (m,); the residual norms |A y_i - theta_i y_i|, from the recurrence.
        norm: An estimate of |A|, the largest column seen.
    """

    values: Array
    weights: Array
    bounds: Array
    norm: float


class Lanczos:
    """An orthonormal basis V of a Krylov space of a symmetric matrix A, and T = V^T A V.

    After m steps A V_m = V_m T_m + R B, where the rows of R are the `block` vectors that come next and B couples them
    to the first m. With block 1 this is the method of Lanczos (1950), with more it is the band form (Ruhe, 1979),
    which finds eigenvalues of a multiplicity up to the block size. Every new vector is made orthogonal to all others
    twice. A basis that may not grow is shrunk to its best Ritz vectors (thick restart: Wu and Simon, 2000). A step
    waits for nothing on the device; `ritz` does.

    Several ranks share the products and build the same basis, each its own copy. New vectors and Ritz pairs are those
    of rank 0, for machines that round differently would drift apart, and decide differently.

    Args:
        operator: A.
        rows: The largest number of basis vectors, at least 2 + block.
        generator: Draws the starting vectors, on the CPU.
        block: How many vectors it starts from.
        lead: Half of the first one, (P,), of any length but zero; the other half stays random, so that no eigenvector
            is left out. None makes it random.
        start: The first vector, (P,), of any length but zero; None draws it.
    """

    def __init__(
        self,
        operator: Operator,
        *,
        rows: int,
        generator: torch.Generator,
        block: int = 1,
        lead: Tensor | None = None,
        start: Tensor | None = None,
    ) -> None:
        self.operator = operator
        self.steps = 0
        self.block = min(block, operator.size)
        self.restarted = False
        self.limit = min(rows, operator.size + self.block)
        self._generator = generator
        wide = reductions.wide(operator.device)
        self._norm = torch.zeros((), dtype=wide, device=operator.device)
        self._vectors = torch.empty(0, operator.size, dtype=operator.dtype, device=operator.device)
        self._columns = torch.zeros(self.limit, self.limit, dtype=wide, device=operator.device)
        self._spare: Tensor | None = None
        self._reserve(self.block)
        for i in range(self.block):
            self._vectors[i] = self._random(i) if start is None or i else start / reductions.norm(start)
        if lead is not None and (length := float(reductions.norm(lead))) > 0:
            first = self._vectors[0] + lead / length
            self._vectors[0] = first / reductions.norm(first)
            for i in range(1, self.block):
                reductions.orthogonalise_(self._vectors[i], self._vectors[:i])
                self._vectors[i] /= reductions.norm(self._vectors[i])
        operator.comm.broadcast_([self._vectors[: self.block]])

    @property
    def basis(self) -> Tensor:
        """The vectors whose products are known, (m, P); not to be changed."""
        return self._vectors[: self.steps]

    @property
    def coming(self) -> Tensor:
        """The vectors that come next, (b, P)."""
        return self._vectors[self.steps : self._filled]

    @property
    def coupling(self) -> Array:
        """B = R^T A V_m, (b, m)."""
        return self.beyond(self.steps)

    @property
    def projected(self) -> Array:
        """T = V_m^T A V_m, (m, m)."""
        block = _on_host(self._columns[: self.steps, : self.steps])
        return (block + block.T) / 2

    @property
    def complete(self) -> bool:
        """Whether the basis spans the whole space."""
        return self.steps >= self.operator.size

    @property
    def full(self) -> bool:
        """Whether a further step needs a restart."""
        return not self.complete and self._filled >= self.limit

    @property
    def room(self) -> int:
        """How many vectors can be added without a restart, or until they are all there are."""
        return min(self.limit, self.operator.size) - self._filled

    @property
    def _filled(self) -> int:
        return min(self.steps + self.block, self.operator.size)

    def beyond(self, rows: int) -> Array:
        """Return what A maps the first rows of the basis to beyond them, in terms of the vectors there: (., rows)."""
        return _on_host(self._columns[rows : self._filled, :rows])

    def start_again(self) -> None:
        """Let a random vector come next that is orthogonal to the basis, and any direction in its complement.

        If all further steps `follow` it, they are Lanczos from it with A on that complement, and T stays the A of all.
        """
        m, filled = self.steps, self._filled
        self._reserve(filled + 1)
        start = self._random(m)
        along = reductions.orthogonalise_(start, self._vectors[:filled])[m:]
        rest = reductions.norm(start)
        self._vectors[filled] = start / rest
        reductions.orthogonalise_(self._vectors[filled], self._vectors[:filled])
        self._vectors[filled] /= reductions.norm(self._vectors[filled])
        self.block += 1
        self._turn(torch.cat([along, rest[None]]))

    def followed(self, first: int) -> tuple[Array, Array]:
        """Return the diagonal of T from a row on, (n,), and what is below it, (n,), after steps that `follow`."""
        diagonal, below = torch.arange(first, self.steps), torch.arange(first + 1, self.steps + 1)
        return _on_host(self._columns[diagonal, diagonal]), np.abs(_on_host(self._columns[below, diagonal]))

    def step(self, *, follow: bool = False) -> None:
        """Multiply the next vector by A and add what is new in the product to the basis.

        Where nothing is new the space is invariant. Then a random vector is added, which finds further copies of an
        eigenvalue.

        Args:
            follow: Whether what the product holds of the coming vectors comes next, and the others wait.
        """
        m, filled = self.steps, self._filled
        image = self.operator.product(self._vectors[m])
        self._norm = torch.maximum(self._norm, reductions.norm(image))
        self._columns[:filled, m] = reductions.orthogonalise_(image, self._vectors[:filled])
        self.steps += 1
        if filled == self.operator.size:
            return
        self._reserve(filled + 1)
        rest = reductions.norm(image)
        new = rest > _BREAKDOWN * torch.finfo(self.operator.dtype).eps * self._norm
        self._columns[filled, m] = torch.where(new, rest, 0)
        self._vectors[filled] = torch.where(new, image / rest, self._random_vector(filled))
        # Once more: what is left may be so short that rounding has turned it.
        latest, others = self._vectors[filled], self._vectors[:filled]
        reductions.subtract_(latest, others, reductions.inner(others, latest))
        self._vectors[filled] /= reductions.norm(self._vectors[filled])
        self.operator.comm.broadcast_([self._vectors[filled]])
        if follow:
            self._turn(self._columns[self.steps : self._filled, m])

    def ritz(self) -> Ritz:
        """Return the Ritz pairs of the basis."""
        values, weights = np.linalg.eigh(self.projected)
        values, weights = values[::-1].copy(), weights[:, ::-1].copy()
        bounds = np.linalg.norm(self.coupling @ weights, axis=0)
        norm = max(float(self._norm), float(np.abs(values).max(initial=0.0)))
        return self.operator.comm.agreed(Ritz(values, weights, bounds, norm))

    def vectors(self, ritz: Ritz, which: list[int]) -> Tensor:
        """Return Ritz vectors of unit length, (k, P)."""
        chosen = torch.from_numpy(ritz.weights[:, which].T.copy()).to(self.basis)
        vectors = torch.empty(len(which), self.operator.size, dtype=self.basis.dtype, device=self.basis.device)
        for i, weights in enumerate(chosen):
            vectors[i] = reductions.combine(self.basis, weights)
            vectors[i] /= reductions.norm(vectors[i])
        return vectors

    def restart(self, ritz: Ritz, keep: list[int]) -> None:
        """Shrink the basis to some Ritz vectors and the vectors that come next, which keeps all that they know."""
        coupled = self.coupling @ ritz.weights[:, keep]
        coming = self.coming.clone()
        reductions.rotate_(self.basis, torch.from_numpy(ritz.weights[:, keep].copy()))
        k, filled = len(keep), len(keep) + len(coming)
        self._vectors[k:filled] = coming
        self._columns[:] = 0.0
        self._columns[:k, :k] = torch.from_numpy(np.diag(ritz.values[keep]))
        self._columns[k:filled, :k] = torch.from_numpy(coupled)
        self._columns[:k, k:filled] = torch.from_numpy(coupled.T.copy())
        self.steps = k
        self.restarted = True

    def signs(self, count: int) -> Tensor:
        """Return random signs, (count,), in double precision where the device has it."""
        drawn = torch.randint(2, (count,), generator=self._generator)
        return (2 * drawn - 1).to(dtype=reductions.wide(self.operator.device), device=self.operator.device)

    def _turn(self, along: Tensor) -> None:
        """Reflect the coming vectors into others that span the same, the first along a combination of them, (b,)."""
        normal = along.clone()
        normal[0] += torch.where(along[0] < 0, -1, 1) * along.norm()
        square = normal @ normal
        mirror = torch.eye(len(along), dtype=along.dtype, device=along.device)
        mirror -= torch.where(square > 0, 2 / square, 0) * torch.outer(normal, normal)
        reductions.rotate_(self.coming, mirror)
        coming = slice(self.steps, self._filled)
        self._columns[coming, : self.steps] = mirror @ self._columns[coming, : self.steps]

    def _random(self, filled: int) -> Tensor:
        """Return a random unit vector orthogonal to the first vectors."""
        drawn = torch.randn(self.operator.size, dtype=torch.float64, generator=self._generator)
        vector = drawn.to(dtype=self.operator.dtype, device=self.operator.device)
        vector /= reductions.norm(vector)
        reductions.orthogonalise_(vector, self._vectors[:filled])
        vector /= reductions.norm(vector)
        return vector

    def _random_vector(self, turn: int) -> Tensor:
        """Return another random vector for every turn: one that was drawn once, with its entries moved along."""
        if self._spare is None:
            drawn = torch.randn(self.operator.size, dtype=self.operator.dtype, generator=self._generator)
            self._spare = drawn.to(self.operator.device)
        return self._spare.roll(turn)

    def _reserve(self, rows: int) -> None:
        """Make room for so many vectors.

        On a CPU memory is taken when it is written to, so room for all of them costs nothing and saves copies, during
        which both would be there. Elsewhere there is twice as much room every time.
        """
        have = self._vectors.shape[0]
        if rows <= have:
            return
        grown = min(max(rows, 2 * have, _FIRST_ROWS), max(rows, self.limit))
        if self._vectors.device.type == "cpu":
            grown = max(rows, self.limit)
        larger = torch.empty(grown, self.operator.size, dtype=self.operator.dtype, device=self.operator.device)
        larger[:have] = self._vectors
        self._vectors = larger


def _on_host(entries: Tensor) -> Array:
    return entries.cpu().numpy().astype(np.float64)

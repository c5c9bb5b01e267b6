"""Inner products and combinations of long flat vectors, summed in double precision.

A float32 norm over 11 million entries is off by 4e-4 on a CPU, which biases an eigenvalue by more than a residual
shows. So vectors stay in their own type, and every sum over their entries is carried in float64.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_COLUMNS = 1 << 15
"""Entries that are summed in the vectors' own type before the sums go on in double precision."""


def wide(device: torch.device) -> torch.dtype:
    """Return the type of sums on a device: float64, or float32 where the device has no other."""
    return torch.float32 if device.type == "mps" else torch.float64


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Return <a, b>, (), of flat vectors (P,)."""
    return torch.sum(a * b, dtype=wide(a.device))


def norm(a: Tensor) -> Tensor:
    """Return the Euclidean norm, (), of a flat vector (P,)."""
    return dot(a, a).sqrt()


def inner(rows: Tensor, vector: Tensor) -> Tensor:
    """Return the inner products of rows (m, P) with a vector (P,): (m,) in double precision."""
    total = torch.zeros(rows.shape[0], dtype=wide(rows.device), device=rows.device)
    for start, stop in _pieces(vector.numel()):
        total += torch.mv(rows[:, start:stop], vector[start:stop])
    return total


def subtract_(vector: Tensor, rows: Tensor, weights: Tensor) -> None:
    """Subtract sum_i weights_i rows_i from a vector (P,) in place; rows are (m, P), weights (m,)."""
    vector.addmv_(rows.T, weights.to(vector.dtype), alpha=-1)


def combine(rows: Tensor, weights: Tensor) -> Tensor:
    """Return sum_i weights_i rows_i, (P,), of rows (m, P) and weights (m,)."""
    return torch.mv(rows.T, weights.to(rows.dtype))


def orthogonalise_(vector: Tensor, rows: Tensor) -> Tensor:
    """Make a vector orthogonal to orthonormal rows in place by two classical Gram-Schmidt passes.

    Two passes leave it orthogonal to rounding, where one or none lets converged eigenvalues come back as copies
    (Giraud, Langou and Rozloznik, 2005).

    Args:
        vector: (P,).
        rows: (m, P).

    Returns:
        The inner products that were taken out, (m,) in double precision.
    """
    first = inner(rows, vector)
    second = torch.zeros_like(first)
    weights = first.to(vector.dtype)
    for start, stop in _pieces(vector.numel()):  # both at once, for reading the rows is what takes time
        piece, part = rows[:, start:stop], vector[start:stop]
        second += torch.mv(piece, part.addmv_(piece.T, weights, alpha=-1))
    subtract_(vector, rows, second)
    return first + second


def rotate_(rows: Tensor, weights: Tensor) -> None:
    """Replace the first k rows by combinations of all of them, in place: rows[:k] = weights^T rows.

    Args:
        rows: (m, P).
        weights: (m, k).
    """
    mixing = weights.T.to(dtype=rows.dtype, device=rows.device)
    for start, stop in _pieces(rows.shape[1]):
        rows[: mixing.shape[0], start:stop] = mixing @ rows[:, start:stop]


def _pieces(length: int) -> Iterator[tuple[int, int]]:
    for start in range(0, length, _COLUMNS):
        yield start, min(start + _COLUMNS, length)

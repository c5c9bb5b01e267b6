"""The largest value of a quadratic in a ball: of a small one exactly, of a large one in the span of a few points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from sharpkit.core import vec
from sharpkit.core.vec import Vec
from sharpkit.diagnostics.reductions import dot

Array = NDArray[np.float64]

_HALVINGS = 200
"""Steps of the bisection for the multiplier; double precision has fewer digits."""


def largest_in_ball(matrix: Array, slope: Array, radius: float) -> Array:
    """Return the z, (k,), that maximises slope' z + z' matrix z / 2 over |z| <= radius.

    z solves (mu I - A) z = b with mu >= max(0, lambda_1), and mu = 0 or |z| = radius (More and Sorensen, 1983,
    "Computing a Trust Region Step"). In the hard case b has no part along the leading eigenvectors and mu = lambda_1
    leaves z inside: then a leading eigenvector is added up to the sphere.

    Args:
        matrix: A, (k, k), symmetric.
        slope: b, (k,).
        radius: Above zero.
    """
    values, vectors = np.linalg.eigh(matrix)
    b = vectors.T @ slope
    scale = max(float(np.abs(values).max()), float(np.linalg.norm(b)) / radius)
    if scale == 0:
        return np.zeros_like(b)
    top, slack = float(values[-1]), 1e-14 * scale

    def at(mu: float) -> Array:
        return b / (mu - values)

    if top < -slack and np.linalg.norm(at(0.0)) <= radius:
        return vectors @ at(0.0)
    low = max(0.0, top) + slack
    if np.linalg.norm(at(low)) <= radius:
        z = at(low)
        z[-1] = 0.0
        rest = float(np.sqrt(max(0.0, radius**2 - z @ z)))
        z[-1] = rest if b[-1] >= 0 else -rest
        return vectors @ z
    high = low + float(np.linalg.norm(b)) / radius
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if np.linalg.norm(at(middle)) > radius else (low, middle)
    return vectors @ at(high)


def best_in_span(seen: Sequence[tuple[Vec, Vec]], base: int, origin: Vec, radius: float) -> tuple[Vec, Vec] | None:
    """Return the maximiser, in the ball and in the span of points, of a quadratic that has given slopes at these.

    Differences of slopes are products of the matrix with differences of points, so that in the span of these everything
    is known without further evaluations.

    Args:
        seen: Points u_i in the ball, with the slopes g_i there.
        base: The number of the point whose value counts; where the function is no quadratic, the one about that point.
        origin: g at 0.
        radius: Of the ball.

    Returns:
        That point and the slope there, or None if the points span nothing.
    """
    u, g = seen[base]
    steps = [vec.sub(p, u) for i, (p, _) in enumerate(seen) if i != base] + [vec.scale(u, -1.0)]
    changes = [vec.sub(s, g) for i, (_, s) in enumerate(seen) if i != base] + [vec.sub(origin, g)]
    precision = torch.finfo(u[0].dtype).eps ** 0.5
    lengths = [_dot(s, s) ** 0.5 for s in steps]
    kept = [i for i, length in enumerate(lengths) if length > precision * radius]
    if not kept:
        return None
    scales = np.array([1 / lengths[i] for i in kept])
    steps, changes = ([some[i] for i in kept] for some in (steps, changes))
    gram = np.array([[_dot(s, t) for t in steps] for s in steps]) * np.outer(scales, scales)
    image = np.array([[_dot(s, t) for t in changes] for s in steps]) * np.outer(scales, scales)
    slope = np.array([_dot(s, g) for s in steps]) * scales
    # u = -(the step to 0), so u + sum_i c_i s_i = sum_i y_i s_i with y = c - 1 at that step.
    shift = np.zeros(len(kept))
    if kept[-1] == len(lengths) - 1:
        shift[-1] = lengths[-1]
    matrix = (image + image.T) / 2
    values, vectors = np.linalg.eigh(gram)
    good = values > precision * values[-1]
    to = vectors[:, good] / np.sqrt(values[good])  # y = to z, with |sum_i y_i s_i| = |z|
    z = largest_in_ball(to.T @ matrix @ to, to.T @ (slope + matrix @ shift), radius)
    y = to @ z
    c = (y + shift) * scales
    found, there = vec.zeros_like(u) if shift.any() else vec.clone(u), vec.clone(g)
    for i, (step, change) in enumerate(zip(steps, changes, strict=True)):
        vec.add_(found, step, alpha=float(y[i] * scales[i]))
        vec.add_(there, change, alpha=float(c[i]))
    return found, there


def _dot(a: Vec, b: Vec) -> float:
    return sum(float(dot(s.reshape(-1), t.reshape(-1))) for s, t in zip(a, b, strict=True))

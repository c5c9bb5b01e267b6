"""The plane that a surface is drawn over: w + a d1 + b d2, and where other checkpoints lie in it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sharpkit.core import vec
from sharpkit.core.task import LossFunction, Task
from sharpkit.core.vec import Vec
from sharpkit.diagnostics.curvature.spectrum import hessian
from sharpkit.diagnostics.measured import as_it_was
from sharpkit.diagnostics.reductions import dot
from sharpkit.diagnostics.surfaces.between import State, buffer_differences, difference, moving, unmoved
from sharpkit.diagnostics.surfaces.directions import Ignore, Norm, movable, normalised, random_directions
from sharpkit.diagnostics.surfaces.effective import bake
from sharpkit.errors import UsageError

Kind = Literal["random", "hessian", "pca", "checkpoints"]
"""Where the directions come from."""

_COLUMNS = 1 << 16
"""Entries of all checkpoints that are multiplied at once in double precision."""


@dataclass(frozen=True)
class Mark:
    """A checkpoint beside the centre.

    Args:
        name: Of the checkpoint.
        x: Its coordinates a, b in the plane.
        y: Of these; 0 in a profile.
        distance: How far from the plane it is, Euclidean.
    """

    name: str
    x: float
    y: float
    distance: float


@dataclass(frozen=True)
class Plane:
    """The points w + a d1 + b d2, or of a profile w + a d1.

    Args:
        kind: Where the directions come from.
        names: The names of the parameters that they move.
        axes: One or two directions, aligned with `names`.
        buffers: What the floating-point buffers move along with them, by name; empty where they stay as stored.
        norm: What of the directions got the norm of the weights.
        ignore: What was set to zero.
        seed: Of random directions, else None.
        orthogonal: Whether d2 was made orthogonal to d1.
        angle: Between d1 and d2, degrees; NaN for a profile.
        marks: Checkpoints in the plane.
        values: Of `hessian` the eigenvalues; of `pca` the parts of the variance.
        effective: Whether weights that are computed from other parameters are moved in place of these; see
            `sharpkit.diagnostics.surfaces.effective`.
        notes: What a reader should know.
    """

    kind: Kind
    names: tuple[str, ...]
    axes: tuple[Vec, ...]
    buffers: tuple[dict[str, Tensor], ...]
    norm: Norm
    ignore: Ignore
    seed: int | None
    orthogonal: bool
    angle: float
    marks: tuple[Mark, ...] = ()
    values: tuple[float, ...] = ()
    effective: bool = False
    notes: tuple[str, ...] = ()

    @property
    def lengths(self) -> tuple[float, ...]:
        """The Euclidean norms of the directions."""
        return tuple(math.sqrt(_dot(axis, axis)) for axis in self.axes)


@as_it_was
def random_plane(
    model: nn.Module,
    axes: int = 2,
    *,
    norm: Norm = "filter",
    ignore: Ignore = "biasbn",
    seed: int = 0,
    orthogonal: bool = False,
) -> Plane:
    """Return the plane of random directions; see `random_directions`."""
    directions = random_directions(model, axes, norm=norm, ignore=ignore, seed=seed)
    notes = bake(model).notes
    plane = _plane("random", movable(model), directions, (), norm=norm, ignore=ignore, seed=seed, orthogonal=orthogonal)
    return replace(plane, effective=bool(notes), notes=notes)


@as_it_was
def hessian_plane(
    model: nn.Module,
    loss: LossFunction | Task,
    batches: Iterable[Any],
    axes: int = 2,
    *,
    norm: Norm = "none",
    ignore: Ignore = "none",
    seed: int = 0,
    tol: float = 1e-3,
    **options: Any,
) -> Plane:
    """Return the plane of the eigenvectors of the Hessian's largest eigenvalues, unit vectors with `norm="none"`.

    Of the two signs of an eigenvector it is the one whose largest entry is positive.

    Args:
        model: At w.
        loss: As for `hessian`.
        batches: As for `hessian`.
        axes: 1 or 2.
        norm: What gets the norm of the weights.
        ignore: What is set to zero.
        seed: Of Lanczos.
        tol: Residual, relative to the eigenvalue.
        options: Of `hessian`; with `params` the eigenvectors are those of these parameters' block, zero elsewhere.
    """
    found = hessian(model, loss, batches, top=axes, tol=tol, seed=seed, **options)
    params = movable(model)
    directions: list[Vec] = []
    for vector in found.vectors[:axes]:
        signed = vector * vector[vector.abs().argmax()].sign()
        pieces = dict(zip(found.names, vec.unflatten(signed, [params[name] for name in found.names]), strict=True))
        whole = [pieces[name] if name in pieces else torch.zeros_like(p) for name, p in params.items()]
        directions.append(normalised(whole, model, norm=norm, ignore=ignore))
    plane = _plane("hessian", params, directions, (), norm=norm, ignore=ignore)
    cause = found.self_check.cause
    notes = (*plane.notes, *([f"the self-check of the Hessian failed: {cause}"] if cause else []))
    return replace(plane, values=tuple(float(value) for value in found.eigenvalues[:axes]), notes=notes)


@as_it_was
def checkpoint_plane(
    model: nn.Module, others: Mapping[str, State], *, orthogonal: bool = False, buffers: bool = True
) -> Plane:
    """Return the line through w and another checkpoint, or the plane through w and two others.

    d1 and d2 are the differences to w, so that without `orthogonal` the others lie at (1, 0) and (0, 1). Frozen
    parameters that differ move too. Floating-point buffers, such as batch-norm statistics, move along with the weights,
    so that the others' losses are their own. Notes say which buffers differ and do not move.

    Args:
        model: At w.
        others: One or two, by name.
        orthogonal: Make d2 orthogonal to d1, with the length it had.
        buffers: Whether buffers move too.
    """
    if len(others) not in (1, 2):
        raise UsageError(f"{len(others)} other checkpoints are given, allowed are 1 and 2", "give one or two")
    params = moving(model, others)
    differences = {name: difference(model, params, state, name) for name, state in others.items()}
    for name, moved in differences.items():
        if _dot(moved, moved) == 0:
            raise UsageError(f"the weights of {name} are those of the centre", "give another checkpoint")
    along = buffer_differences(model, others) if buffers else ()
    plane = _plane("checkpoints", params, list(differences.values()), along, orthogonal=orthogonal)
    return replace(
        plane,
        marks=tuple(_mark(plane.axes, name, d) for name, d in differences.items()),
        notes=unmoved(model, others, moved=buffers),
    )


@as_it_was
def pca_plane(model: nn.Module, states: Mapping[str, State], axes: int = 2) -> Plane:
    """Return the plane of the principal components of a run's checkpoints, unit vectors, with their places in it.

    Li et al. (2018), section 7.2. The components are those of the checkpoints about their mean; the plane goes through
    w, so a checkpoint's coordinates are those of its projection. The sign is such that the first checkpoint has
    coordinates that are not positive. Frozen parameters that differ count too. Buffers, such as batch-norm statistics,
    stay those of w, which the plane's notes say where they differ.

    Args:
        model: At w, usually the last of them.
        states: By name, in the order of the run; at least one more than axes, w among them.
        axes: 1 or 2.
    """
    params = moving(model, states)
    differences = {name: difference(model, params, state, name) for name, state in states.items()}
    if len(differences) < axes + 1:
        raise UsageError(
            f"{len(differences)} checkpoints are there, {axes} components need {axes + 1} or more",
            "train with --save-every 1, or give --y none",
        )
    rows = torch.stack([vec.flatten(d).cpu() for d in differences.values()])
    mean = rows.mean(0)
    rows -= mean
    values, vectors = np.linalg.eigh(_gram(rows))
    sizes = [float(value) for value in values[::-1]]
    if sizes[axes - 1] <= 1e-12 * sizes[0] or sizes[0] <= 0:
        raise UsageError(
            f"the checkpoints lie in fewer than {axes} dimensions", "give --y none, or checkpoints that differ"
        )
    like = list(params.values())
    directions: list[Vec] = []
    first = vec.flatten(next(iter(differences.values()))).cpu().double()
    for k in range(axes):
        weights = torch.tensor(vectors[:, -1 - k], dtype=rows.dtype)
        flat = (weights @ rows).double()
        flat = flat / vec.norm([flat])
        if float(flat @ first) > 0:
            flat = -flat
        directions.append([piece.to(p) for piece, p in zip(vec.unflatten(flat, like), like, strict=True)])
    plane = _plane("pca", params, directions, ())
    return replace(
        plane,
        marks=tuple(_mark(plane.axes, name, d) for name, d in differences.items()),
        values=tuple(size / sum(size for size in sizes if size > 0) for size in sizes[:axes]),
        notes=unmoved(model, states, moved=False),
    )


def _plane(
    kind: Kind,
    names: Iterable[str],
    directions: list[Vec],
    buffers: tuple[dict[str, Tensor], ...],
    *,
    norm: Norm = "none",
    ignore: Ignore = "none",
    seed: int | None = None,
    orthogonal: bool = False,
) -> Plane:
    if orthogonal and len(directions) == 2:
        first, second = directions
        share = _dot(first, second) / _dot(first, first)
        rest = vec.add(second, first, alpha=-share)
        size = math.sqrt(_dot(rest, rest))
        if size <= 1e-6 * math.sqrt(_dot(second, second)):
            raise UsageError("the two directions are parallel", "give others, or leave out --orthogonal")
        stretch = math.sqrt(_dot(second, second)) / size
        directions = [first, vec.scale(rest, stretch)]
        if buffers:
            mixed = {name: stretch * (b - share * buffers[0][name]) for name, b in buffers[1].items()}
            buffers = (buffers[0], mixed)
    return Plane(kind, tuple(names), tuple(directions), buffers, norm, ignore, seed, orthogonal, _angle(directions))


def _angle(axes: Sequence[Vec]) -> float:
    if len(axes) < 2:
        return math.nan
    lengths = math.sqrt(_dot(axes[0], axes[0]) * _dot(axes[1], axes[1]))
    cosine = _dot(axes[0], axes[1]) / lengths if lengths else math.nan
    return math.degrees(math.acos(min(1.0, max(-1.0, cosine)))) if cosine == cosine else math.nan


def _mark(axes: Sequence[Vec], name: str, difference: Vec) -> Mark:
    """Return the coordinates of w + difference: those of the nearest point of the plane."""
    gram = np.array([[_dot(a, b) for b in axes] for a in axes])
    right = np.array([_dot(a, difference) for a in axes])
    solution = np.linalg.lstsq(gram, right, rcond=None)[0]
    squared = _dot(difference, difference) - float(solution @ right)
    places = [float(place) for place in solution]
    return Mark(name, places[0], places[1] if len(places) > 1 else 0.0, math.sqrt(max(0.0, squared)))


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """Return the inner product, summed in double precision."""
    return sum(float(dot(s.reshape(-1), t.reshape(-1))) for s, t in zip(a, b, strict=True))


def _gram(rows: Tensor) -> NDArray[np.float64]:
    """Return rows rows^T, (k, k), in double precision."""
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for start in range(0, rows.shape[1], _COLUMNS):
        piece = rows[:, start : start + _COLUMNS].double()
        total += piece @ piece.T
    return total.numpy()

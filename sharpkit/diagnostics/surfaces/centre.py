"""Slope and curvature at the centre of a surface: from the picture, and from derivatives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sharpkit.core import vec
from sharpkit.core.comm import ALONE, Comm
from sharpkit.core.task import LossFunction, Task
from sharpkit.diagnostics.curvature.matrices import Curvature
from sharpkit.diagnostics.curvature.self_check import verified
from sharpkit.diagnostics.problem import opened
from sharpkit.diagnostics.reductions import dot
from sharpkit.diagnostics.surfaces.along import along
from sharpkit.diagnostics.surfaces.cells import Cells
from sharpkit.diagnostics.surfaces.plane import Plane
from sharpkit.diagnostics.surfaces.surface import Point, Surface

_RISE = 0.01
"""The rise of the loss, relative to it, that the differences are taken over: far above rounding, still a parabola."""

_SMALL_STEP = 0.01
"""The step where the curvature gives none, relative to the half-width of the picture."""


@dataclass(frozen=True)
class Slope:
    """First and second derivative of the loss along a direction.

    Args:
        slope: <d, gradient>.
        curvature: d^T H d.
    """

    slope: float
    curvature: float


@dataclass(frozen=True)
class CentreCheck:
    """The same from the surface and from derivatives; networks with kinks, as ReLU has, agree in slope only.

    Args:
        fitted: Along every axis, from differences of losses on the surface.
        exact: Along every axis, from automatic differentiation.
        steps: The step of the differences along every axis.
    """

    fitted: tuple[Slope, ...]
    exact: tuple[Slope, ...]
    steps: tuple[float, ...]

    @property
    def slope_error(self) -> float:
        """The largest difference of slopes, relative to how much the slope changes within a step, or to itself."""
        pairs = zip(self.fitted, self.exact, self.steps, strict=True)
        return max(abs(f.slope - e.slope) / _scale(abs(e.slope) + abs(e.curvature) * h) for f, e, h in pairs)

    @property
    def curvature_error(self) -> float:
        """The largest relative difference of curvatures."""
        pairs = zip(self.fitted, self.exact, strict=True)
        return max(abs(f.curvature - e.curvature) / _scale(abs(e.curvature)) for f, e in pairs)


def _scale(value: float) -> float:
    return value if value > 0 else math.inf


def exact_slopes(
    model: nn.Module, loss: LossFunction | Task, batches: Sequence[Any], plane: Plane, comm: Comm = ALONE
) -> tuple[tuple[Slope, ...], list[str]]:
    """Return slope and curvature at w along every axis, by one gradient and one product with the Hessian each; notes.

    Args:
        model: At w.
        loss: As for `hessian`.
        batches: As for `hessian`.
        plane: Of directions.
        comm: The ranks that share the samples.

    Raises:
        InputError: If the loss has no second derivative, or a wrong one.
    """
    with ExitStack() as stack:
        stack.enter_context(along(model, plane))
        for name, p in model.named_parameters():  # frozen ones too, where the plane moves them
            p.requires_grad_(p.requires_grad or name in plane.names)
        problem = stack.enter_context(opened(model, loss, batches, comm=comm))
        operator = Curvature(problem, products="autograd")
        verified(operator)
        gradient, found = problem.gradient(), list[Slope]()
        for axis in plane.axes:
            moved = dict(zip(plane.names, axis, strict=True))
            pairs = zip(problem.names, problem.params, strict=True)
            flat = vec.flatten([moved[n] if n in moved else torch.zeros_like(p) for n, p in pairs]).to(gradient)
            found.append(Slope(float(dot(gradient, flat)), float(dot(operator.product(flat), flat))))
        notes = list(operator.notes)
    return tuple(found), notes


def fitted_slopes(surface: Surface, cells: Cells, exact: Sequence[Slope], half_widths: Sequence[float]) -> CentreCheck:
    """Return the fourth-order differences of the loss along every axis, from four points of it and the centre.

    Args:
        surface: To evaluate points.
        cells: Gets them.
        exact: What they are compared with; gives the step.
        half_widths: Of the picture along every axis.
    """

    def loss(point: Point) -> float:
        if point not in cells:
            cells.add(point, surface.at(*point))
        return cells[point].loss

    fitted: list[Slope] = []
    steps: list[float] = []
    centre = loss((0.0, 0.0))
    for k, (slope, half) in enumerate(zip(exact, half_widths, strict=True)):
        h = _SMALL_STEP * half
        if slope.curvature > 0:
            h = min(half / 4, math.sqrt(2 * _RISE * max(centre, 1e-6) / slope.curvature))
        low2, low, high, high2 = (loss((t, 0.0) if k == 0 else (0.0, t)) for t in (-2 * h, -h, h, 2 * h))
        first = (8 * (high - low) - (high2 - low2)) / (12 * h)
        second = (16 * (high + low) - (high2 + low2) - 30 * centre) / (12 * h * h)
        fitted.append(Slope(first, second))
        steps.append(h)
    return CentreCheck(tuple(fitted), tuple(exact), tuple(steps))

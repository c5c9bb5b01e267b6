"""What an operator checks about itself: that it is symmetric, and that it agrees with differences of first derivatives.

A wrong double backward raises nothing: eigenvalues, residuals and standard errors look as always. It shows in two
numbers, on a few samples: with a unit vector v and u = A v / |A v|, symmetry is | <u, A v> - <v, A u> | / |A v|, and
the difference is |A v - D v| / |A v|, where D v comes from first derivatives at w + h v and w - h v.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from sharpkit.core import vec
from sharpkit.core.comm import ALONE
from sharpkit.diagnostics import reductions
from sharpkit.diagnostics.curvature.differences import Precision, Reference, as_it_is, finest, moved, reference, some
from sharpkit.diagnostics.curvature.matrices import Curvature
from sharpkit.diagnostics.problem import Problem
from sharpkit.errors import InputError

State = Literal["passed", "failed", "skipped"]

_SAMPLES = 32
_PIECES = 2
"""Samples that are looked at, and the batches that they come from."""

_NEAR = 1e-3
"""How far from w it looks where w itself lies on a kink, relative to each tensor."""

_SLOPE = 1e-2
"""Largest relative difference of <gradient, v> and of differences of the loss."""

_SHARE = 0.1
"""The part of its share of |A v| that a tensor's own part counts as, at least."""

_ROUNDING = 20.0
"""Roundings of differences that count as none."""


@dataclass(frozen=True)
class SelfCheck:
    """The result of an operator's check of itself.

    Args:
        state: Whether it was made, and passed.
        symmetry: | <u, A v> - <v, A u> | / |A v|.
        symmetry_tolerance: The largest that passes.
        difference: |A v - D v| / |A v|, of all parameters or of the tensor where it is the largest.
        tolerance: The largest that passes.
        slope: The relative difference of <gradient, v> from differences of losses; NaN where it is not looked at.
        slope_tolerance: The largest that passes.
        samples: How many samples it was made on.
        step: h of the differences, relative to 1 + |w|.
        dtype: The type of the differences.
        near: Whether it was made at a random point near w, because the loss has a kink at w.
        cause: Why it failed; empty if it did not.
    """

    state: State
    symmetry: float = math.nan
    symmetry_tolerance: float = math.nan
    difference: float = math.nan
    tolerance: float = math.nan
    slope: float = math.nan
    slope_tolerance: float = _SLOPE
    samples: int = 0
    step: float = math.nan
    dtype: str = ""
    near: bool = False
    cause: str = ""

    @property
    def agrees(self) -> bool:
        """Whether products are symmetric and are those of differences."""
        return self.symmetry <= self.symmetry_tolerance and self.difference <= self.tolerance

    @property
    def off(self) -> float:
        """The larger of what products are asymmetric and differ by."""
        return max(self.symmetry, self.difference)

    @property
    def is_gradient(self) -> bool:
        """Whether the gradient is that of the loss, as far as it was looked at."""
        return math.isnan(self.slope) or self.slope <= self.slope_tolerance

    @property
    def how(self) -> str:
        """The result in words."""
        if self.state == "skipped":
            return "skipped"
        return f"{self.state}: symmetry {self.symmetry:.1g}, differences {self.difference:.1g}"


SKIPPED = SelfCheck("skipped")


def verified(operator: Curvature) -> SelfCheck:
    """Check an operator, and have it take finite differences where its products are wrong and it may.

    Raises:
        InputError: If products by autograd are wrong, and finite differences were not allowed.
    """
    operator.probe()
    checked = _of_all_ranks(operator)
    if not checked.agrees and not operator.differs:
        if _agrees_in_double(operator):
            kind = str(operator.dtype).removeprefix("torch.")
            return _failed(operator, checked, f"products in {kind} round by {checked.off:.1g}; use --dtype float64")
        if not checked.is_gradient:
            off = f"products differ by {checked.difference:.1g} from differences of it"
            return _failed(operator, checked, f"{_not_the_gradient(checked)}; {off}, and the numbers are not reliable")
        _refuse_or_differ(operator, checked)
        differing = _of_all_ranks(operator)
        if checked.symmetry <= checked.symmetry_tolerance and differing.symmetry > differing.symmetry_tolerance:
            operator.take_autograd()
            off = (
                f"differences of the gradient are asymmetric by {differing.symmetry:.1g}, products by autograd are not"
            )
            cause = f"{off}, as where a part of the model is detached; what is detached is held constant"
            return _failed(operator, checked, cause)
        checked = differing
    if not checked.agrees:
        off = f"are asymmetric by {checked.symmetry:.1g} and change by {checked.difference:.1g} with the step"
        cause = f"products by {operator.how} {off}, as they do at kinks of the loss"
        return _failed(operator, checked, f"{cause}; the numbers are not reliable")
    if not checked.is_gradient:
        return _failed(operator, checked, f"{_not_the_gradient(checked)}; what is computed are derivatives of it")
    return replace(checked, state="passed")


def _failed(operator: Curvature, checked: SelfCheck, cause: str) -> SelfCheck:
    operator.notes.append(f"the self-check failed: {cause}")
    return replace(checked, state="failed", cause=cause)


def _not_the_gradient(checked: SelfCheck) -> str:
    return (
        f"the gradient differs from the slope of the loss by {checked.slope:.1g} of it, so a function of the model has "
        "a first derivative of its own, such as a straight-through estimator"
    )


def _refuse_or_differ(operator: Curvature, checked: SelfCheck) -> None:
    """Have an operator whose products are wrong take finite differences, or refuse it.

    Raises:
        InputError: If finite differences were not allowed, or would be no better.
    """
    wrong = (
        f"products by autograd are asymmetric by {checked.symmetry:.1g} and differ by {checked.difference:.1g} from "
        "differences of first derivatives: a function has a wrong double backward, or a part of the model is detached"
    )
    if not operator.may_differ:
        remedy = "use --matrix hessian --hvp fd; --no-self-check computes what autograd gives"
        raise InputError(f"the self-check failed: {wrong}", remedy)
    operator.take_differences(f"finite differences are used: {wrong}")


def _of_all_ranks(operator: Curvature) -> SelfCheck:
    """Return the worst check of all ranks, which all make the same one."""
    every = operator.comm.objects(check(operator))
    return max(every, key=lambda c: (not c.agrees, c.difference))


def check(operator: Curvature) -> SelfCheck:
    """Return what products of an operator are like at w, or near it if they only fail there; `state` is not decided."""
    problem = operator.problem
    few = replace(problem, batches=some(problem, _SAMPLES, _PIECES), comm=ALONE)
    precision = finest(few)
    vector = _direction(problem)
    at_w = _compared(operator, few, vector, precision)
    if at_w.agrees:
        return at_w
    sizes = vec.unflatten(vector, problem.params)
    offset = [_NEAR * _length(p.detach()) / (_length(v) or 1.0) * v for p, v in zip(problem.params, sizes, strict=True)]
    offset = [o if bool(o.any()) else v * _NEAR for o, v in zip(offset, sizes, strict=True)]
    near = moved(problem.params, offset, lambda: _compared(operator, few, vector, precision))
    return replace(near, near=True) if near.agrees else at_w


def _compared(operator: Curvature, few: Problem, vector: Tensor, precision: Precision) -> SelfCheck:
    """Compare products at the weights of the moment, at the step that agrees best."""
    product = operator.on(few)
    image = product(vector)
    length = float(reductions.norm(image))
    found: list[tuple[float, float, Reference]] = []
    tolerances = _tolerances(operator, precision)
    with as_it_is(few, precision.dtype) as plain:
        direction = vector.to(precision.dtype)
        for step in precision.steps:
            by_first = reference(plain, operator.kind, direction, step, _ROUNDING * precision.eps)
            by_first = by_first._replace(image=by_first.image.add_(direction, alpha=operator.weight_decay))
            found.append((_difference(image.to(precision.dtype), by_first, few), step, by_first))
            if found[-1][0] <= tolerances[1]:
                break
    difference, step, best = min(found, key=lambda f: f[0])
    symmetry = 0.0
    if length > best.noise:
        back = product(image / length)
        symmetry = abs(length - float(reductions.dot(vector, back))) / length
    return SelfCheck(
        "skipped",
        symmetry,
        tolerances[0],
        difference,
        tolerances[1],
        _slope(best) if operator.kind == "hessian" else math.nan,
        samples=few.samples,
        step=step,
        dtype=precision.name,
    )


def _tolerances(operator: Curvature, precision: Precision) -> tuple[float, float]:
    """Return the largest asymmetry and the largest difference, for the rounding of products and of differences."""
    if precision.eps > 1e-10:
        return 1e-2, 0.1
    return (1e-6, 1e-3) if operator.dtype == torch.float64 and not operator.differs else (1e-3, 2e-2)


def _difference(image: Tensor, by_first: Reference, problem: Problem) -> float:
    """Return the relative difference of two products, of all parameters or of the tensor where it is the largest."""
    whole = max(float(reductions.norm(image)), float(reductions.norm(by_first.image)))
    pairs = zip(
        vec.unflatten(image - by_first.image, problem.params),
        vec.unflatten(by_first.image, problem.params),
        strict=True,
    )
    worst = _relative(float(reductions.norm(image - by_first.image)), by_first.noise, whole)
    for apart, own in pairs:
        share = math.sqrt(apart.numel() / problem.size)
        floor = max(_length(own), _SHARE * share * whole)
        worst = max(worst, _relative(_length(apart), by_first.noise, floor))
    return worst


def _relative(apart: float, noise: float, scale: float) -> float:
    if not math.isfinite(apart):
        return math.inf
    return max(0.0, apart - noise) / scale if scale > 0 else 0.0


def _slope(found: Reference) -> float:
    exact, by_losses, noise = found.slope
    scale = max(abs(exact), abs(by_losses))
    return max(0.0, abs(exact - by_losses) - noise) / scale if scale > 0 else 0.0


def _agrees_in_double(operator: Curvature) -> bool:
    """Return whether products by autograd are right in double precision, so that rounding is what is wrong."""
    problem = operator.problem
    few = replace(problem, batches=some(problem, _SAMPLES, _PIECES), comm=ALONE)
    precision = finest(few)
    if operator.dtype == torch.float64 or precision.eps > 1e-10:
        agrees = False
    else:
        with few.cast(torch.float64) as double:
            vector = _direction(problem).double()
            image = operator.on(double)(vector)
            with as_it_is(double, torch.float64) as plain:
                found = [
                    reference(plain, operator.kind, vector, step, _ROUNDING * precision.eps)
                    for step in precision.steps[:2]
                ]
        found = [r._replace(image=r.image.add_(vector, alpha=operator.weight_decay)) for r in found]
        agrees = min(_difference(image, by_first, few) for by_first in found) <= 1e-3
    return all(operator.comm.objects(agrees))


def _direction(problem: Problem) -> Tensor:
    """Return a random unit vector, (P,), whose part of every tensor is as large as the tensor."""
    generator = torch.Generator().manual_seed(0)
    typical = _length(vec.flatten(problem.params).detach()) / math.sqrt(problem.size) or 1.0
    drawn: list[Tensor] = []
    for p in problem.params:
        size = _length(p.detach()) / math.sqrt(p.numel()) or typical
        drawn.append(torch.randn(p.shape, generator=generator).to(problem.device, problem.dtype) * size)
    flat = vec.flatten(drawn)
    return flat / reductions.norm(flat).to(flat)


def _length(values: Tensor) -> float:
    return float(reductions.norm(values.flatten()))

"""From the climbed vector to the perturbation: one formula for every metric, mask and radius."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from torch import Tensor

from sharpkit.core import vec
from sharpkit.core.rule import Rule
from sharpkit.core.step import Step
from sharpkit.core.vec import Vec

TINY = 1e-12


def offset(rule: Rule, step: Step) -> Vec:
    """Return epsilon, asking the ascent, the filter and the shape in that order.

    Args:
        rule: States the ascent too.
        step: The step that perturbs.
    """
    assert rule.ascent is not None
    step.touched = rule.touched(step)
    direction = step.climbed = rule.ascent.direction(step)
    if rule.filter is not None:
        direction = rule.filter.apply(step, direction)
    return perturbation(rule, step, direction)


def perturbation(rule: Rule, step: Step, direction: Vec) -> Vec:
    """Return epsilon = M_out rho_t T^2 a / (||T a|| + 1e-12) with a = M_in v.

    The norm is over all tensors jointly and kept in float32 or wider. Where it is zero or not finite, epsilon is zero
    and the step is counted as `zero_norm` or `nonfinite_norm`; nothing is read back from the device for that.

    Args:
        rule: States metric T, masks M, radius rho_t; unstated ones are the identity, all, and an error.
        step: The step that perturbs.
        direction: The climbed vector v.
    """
    a = direction
    for mask in rule.masks:
        if mask.inside:
            a = mask.apply(step, a)
    diagonal = rule.metric.diagonal(step, a) if rule.metric is not None else [None] * len(a)
    scaled = _times(diagonal, a)
    length = vec.norm(scaled)
    finite = length < inf
    step.note("ascent_norm", length)
    step.tally("zero_norm", length == 0)
    step.tally("nonfinite_norm", ~finite)
    assert rule.radius is not None
    factor = rule.radius.at(step) / (length + TINY)
    epsilon = vec.scale(_times(diagonal, scaled), factor)
    outside = [mask for mask in rule.masks if not mask.inside]
    for mask in outside:
        epsilon = mask.apply(step, epsilon)
    plain = rule.metric is None and not outside
    step.note("epsilon_norm", factor * length if plain else vec.norm(epsilon))
    return vec.keep_if(finite & (length > 0), epsilon)


def _times(diagonal: Sequence[Tensor | None], v: Vec) -> Vec:
    return [t if d is None else d * t for d, t in zip(diagonal, v, strict=True)]

"""A large loss in a ball around the weights, by projected gradient ascent that never goes down."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sharpkit.core import vec
from sharpkit.core.point import Point
from sharpkit.core.rule import Rule
from sharpkit.core.shape import TINY
from sharpkit.core.step import Step
from sharpkit.core.vec import Vec
from sharpkit.diagnostics.reductions import wide
from sharpkit.diagnostics.trust_region import best_in_span
from sharpkit.errors import UsageError

_GROW, _SHRINK = 2.0, 0.25
"""What becomes of the step length after a step that went up, and after one that did not."""

_LONGEST = 1e6
"""Step length, in radii: as good as infinite, where the next point is where the gradient points."""

_SHORTEST = 1e-9
"""Step length, in radii, below which there is nothing left to climb."""

_OFF = 0.05
"""How far a rise may be, relative to it, from that of a quadratic, for the next step to rely on one."""

_KEPT = 6
"""Points, with their gradients, that a climb remembers."""


@dataclass(frozen=True)
class Ball:
    """The e with |T^-1 e| <= rho, in a diagonal metric T and on the entries that masks leave: e = T u with |u| <= rho.

    Args:
        diagonal: T of every parameter; None is the identity.
        radius: rho.
        keep: Sets the entries that no mask leaves to zero.
    """

    diagonal: Sequence[Tensor | None]
    radius: float
    keep: Callable[[Vec], Vec]

    @staticmethod
    def of(rule: Rule, step: Step) -> Ball:
        """Return the ball that a rule measures sharpness in.

        Raises:
            UsageError: If the rule states more than a metric, a radius and masks that stay.
        """
        beyond = rule.stated() - {"metric", "masks", "radius"}
        # What plain SAM answers is stated by every complete rule.
        beyond -= {"gate", "ascent", "rows", "descent"}
        if rule.shards == 1:
            beyond -= {"shards"}
        if beyond or not all(mask.inside and mask.standing for mask in rule.masks):
            slots = ", ".join(sorted(beyond)) or "masks"
            raise UsageError(
                f"{rule.name} states {slots}, and sharpness is the largest loss in a ball",
                "use sam, asam, fisher-sam, sam-on or a union of these",
            )

        def keep(v: Vec) -> Vec:
            for mask in rule.masks:
                v = mask.apply(step, v)
            return v

        assert rule.radius is not None
        diagonal = [None] * len(step.params) if rule.metric is None else rule.metric.diagonal(step, step.here.grad)
        return Ball(diagonal, rule.radius.at(step), keep)

    def times(self, v: Vec) -> Vec:
        """Return T v."""
        return [t if d is None else d * t for d, t in zip(self.diagonal, v, strict=True)]

    def slope(self, grad: Vec) -> Vec:
        """Return T M g, the gradient by u."""
        return self.times(self.keep(grad))

    def inside(self, u: Vec) -> Vec:
        """Return the nearest point of the ball."""
        return vec.scale(u, torch.clamp(self.radius / (vec.norm(u) + TINY), max=1.0))

    def at_random(self, like: Sequence[Tensor], generator: torch.Generator) -> Vec:
        """Return a random point u on the sphere, drawn on the CPU, so that it is the same on every device."""
        drawn = [torch.randn(t.shape, generator=generator, dtype=torch.float32).to(t.device, t.dtype) for t in like]
        u = self.keep(drawn)
        return vec.scale(u, self.radius / (vec.norm(u) + TINY))


@dataclass(frozen=True)
class Climb:
    """A climb: the highest loss that was found, where, and what it cost."""

    loss: float
    point: Point  # where it was found
    gradients: int  # beside the one at the start


def climb(
    step: Step, ball: Ball, steps: int, start: Vec | None = None, watch: Callable[[], bool] | None = None
) -> Climb:
    """Climb from u = `start`, or from the weights themselves, by at most so many gradients.

    What is found is a lower bound of the maximum in the ball. u' = P(v + eta g / |g|) with the gradient g at v, P the
    projection on the ball. From the weights v is u at first, so that the first step is exactly one of SAM, of length
    rho, and the result is never below that. Later, as long as losses rise as those of a quadratic, v is where the one
    with the last few gradients is largest in the span of their points and in the ball; see `best_in_span`. Else v is
    the highest point so far. A step that does not go up shortens eta, and one that does lengthens it. The last gradient
    is spent on v itself where that is the quadratic's.

    Args:
        step: The batch, and where its points come from.
        ball: Where to stay.
        steps: Gradients at most, beside the one at the start.
        start: u, in the ball; None is the weights.
        watch: Whether to go on, asked after every gradient.
    """
    origin = ball.slope(step.here.grad)
    u = vec.zeros_like(step.params) if start is None else start
    best = step.here if start is None else step.at(ball.times(u))
    loss = _read(step, best)
    seen, trusted = [(u, ball.slope(best.grad))], False
    highest, eta, made = 0, 1.0, 0
    while made < steps and eta >= _SHORTEST:
        span = trusted and len(seen) > 1
        found = best_in_span(seen, highest, origin, ball.radius) if span else None
        v, slope = seen[highest] if found is None else (ball.inside(found[0]), found[1])
        last = found is not None and made + 1 == steps
        ahead = v if last else ball.inside(vec.add(v, unit(slope), alpha=eta * ball.radius))
        there = step.at(ball.times(ahead))
        value = _read(step, there)
        made += 1
        tried = (ahead, ball.slope(there.grad))
        known = math.isfinite(value) and math.isfinite(float(vec.norm(tried[1])))
        trusted = known and (value > loss or found is None) and _is_quadratic(seen[highest], tried, value - loss)
        up = value > loss
        eta = min(_LONGEST, eta * _GROW) if up else eta * _SHRINK
        if up:
            best, loss = there, value
        if known:
            seen.append(tried)
            highest = len(seen) - 1 if up else highest
        elif up:  # nothing is higher than what is infinite
            break
        if len(seen) > _KEPT:
            oldest = 1 if highest == 0 else 0
            del seen[oldest]
            highest -= oldest < highest
        if watch is not None and not watch():
            break
    return Climb(loss, best, made)


def _is_quadratic(a: tuple[Vec, Vec], b: tuple[Vec, Vec], rise: float) -> bool:
    """Return whether the trapezoidal rule gives the rise from a point to another, as it does of a quadratic exactly."""
    expected = 0.5 * float(vec.dot(vec.add(a[1], b[1]), vec.sub(b[0], a[0])))
    return abs(rise - expected) <= _OFF * max(abs(rise), abs(expected))


def unit(v: Vec) -> Vec:
    """Return the unit vector along v; zero where that is zero."""
    return vec.scale(v, 1 / (vec.norm(v) + TINY))


def mean(losses: Tensor) -> float:
    """Return the mean of losses (B,), in double precision."""
    return float(losses.to(wide(losses.device)).mean())


def _read(step: Step, point: Point) -> float:
    """Return the loss at a point, and have its gradient from the same pass; minus infinity where it is no number."""
    _ = point.grad
    value = mean(step.gathered(point.losses))
    return -math.inf if math.isnan(value) else value

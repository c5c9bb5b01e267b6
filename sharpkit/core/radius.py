"""Radii that change over the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from sharpkit.core.slots import Radius
from sharpkit.core.step import Step
from sharpkit.errors import UsageError, check_range

RadiusSchedule = Literal["constant", "with-lr", "warm-up"]


@dataclass(frozen=True)
class WithRate(Radius):
    """rho_t = rho_min + (rho_max - rho_min) lr_t / lr_max, with lr_t / lr_max kept in [0, 1].

    Args:
        rho_max: Radius at the peak of the learning rate.
        rho_min: Radius where the learning rate is 0.
    """

    rho_max: float
    rho_min: float = 0.0
    schedule: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_range("rho_min", self.rho_min, 0)
        check_range("rho_max", self.rho_max, self.rho_min)

    def at(self, step: Step) -> float:
        """Return rho_t."""
        return self.rho_min + (self.rho_max - self.rho_min) * step.lr_fraction


@dataclass(frozen=True)
class WarmUp(Radius):
    """rho_t = rho min(1, (t + 1) / steps): the radius grows to its value over the first steps.

    Args:
        radius: What it grows to.
        steps: How many steps it takes.
    """

    radius: Radius
    steps: int
    schedule: ClassVar[bool] = True

    def at(self, step: Step) -> float:
        """Return rho_t."""
        return self.radius.at(step) * min(1.0, (step.clock.step + 1) / self.steps)


def scheduled(radius: Radius, how: RadiusSchedule, warmup: int | None) -> Radius:
    """Return the radius on a schedule.

    Args:
        radius: The rule's own.
        how: `constant` leaves it as it is, `with-lr` follows the learning rate down to 0, `warm-up` grows to it.
        warmup: Steps of the warm-up.

    Raises:
        UsageError: If the schedule is unknown, lacks its steps, or the radius has one already.
    """
    if how not in get_args(RadiusSchedule):
        raise UsageError(f"rho_schedule is {how!r}, allowed are {', '.join(get_args(RadiusSchedule))}", "use constant")
    if (how == "warm-up") != (warmup is not None):
        missing = "and rho_warmup is not given" if warmup is None else f"and rho_warmup is {warmup}"
        raise UsageError(
            f"rho_schedule is {how!r} {missing}", "give rho_schedule='warm-up' and rho_warmup, its steps, together"
        )
    if how == "constant":
        return radius
    if radius.schedule:
        raise UsageError(
            f"rho_schedule is {how!r}, and the recipe has a schedule of its own", "leave one of the two out"
        )
    if how == "warm-up":
        assert warmup is not None
        check_range("rho_warmup", warmup, 1)
        return WarmUp(radius, warmup)
    rho = getattr(radius, "rho", None)
    if rho is None:
        raise UsageError("rho_schedule is 'with-lr', and the rule's radius is not a constant", "use constant")
    return WithRate(rho)

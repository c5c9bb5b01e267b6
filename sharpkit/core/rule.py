"""A variant of sharpness-aware minimisation as the answers to a few questions, and the union of variants.

Every answer is a part: a frozen dataclass of hyperparameters. Whatever a part must remember it keeps in the step's
memory, which the engine owns, saves and restores. A slot that a rule leaves at None is answered as plain SAM does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor

from sharpkit.core.vec import Vec
from sharpkit.errors import ConflictError

if TYPE_CHECKING:
    from sharpkit.core.oracle import Work
    from sharpkit.core.point import Point
    from sharpkit.core.step import Step
    from sharpkit.core.task import Batch

Need = Literal["batch", "indices", "whole_batch", "total_steps", "steps_per_epoch"]
"""What a part cannot do without: the batch itself (not a closure), sample indices, a single shard, the clock's ends."""


@dataclass(frozen=True)
class Part:
    """An answer to one of the questions."""

    needs: ClassVar[frozenset[Need]] = frozenset()
    clean_gradient: ClassVar[bool] = False
    """Whether it looks at the whole clean gradient on a step that perturbs; else masks may leave parts of it out."""


class Gate(Part, ABC):
    """Perturb on this step?"""

    never: ClassVar[bool] = False

    @abstractmethod
    def perturbs(self, step: Step) -> bool:
        """Decide; the same on every rank. Reading a tensor's value here waits for the device."""


class Ascent(Part, ABC):
    """Which vector is climbed?"""

    @abstractmethod
    def direction(self, step: Step) -> Vec:
        """Return v, aligned with the parameters."""


class AscentLoss(Part, ABC):
    """Which loss is climbed, where it is not the task's own?"""

    @abstractmethod
    def __call__(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the loss of every sample, (B,), from the model's outputs."""


class Filter(Part, ABC):
    """What is done to the climbed vector before it is shaped (smoothing over steps, say)?"""

    @abstractmethod
    def apply(self, step: Step, direction: Vec) -> Vec:
        """Return the filtered vector."""

    def pass_by(self, step: Step) -> None:
        """See a step that does not perturb; a filter that remembers may want its gradient."""


class Metric(Part, ABC):
    """In which diagonal metric T is the perturbation's length measured?"""

    @abstractmethod
    def diagonal(self, step: Step, direction: Vec) -> list[Tensor | None]:
        """Return the diagonal of T for every parameter; None is the identity."""


class Mask(Part, ABC):
    """Which entries may be perturbed?

    `inside` masks are applied before the norm, so that the radius is rho inside the subspace; the others after it,
    so that the radius shrinks with the mask.
    """

    inside: ClassVar[bool] = False

    @abstractmethod
    def apply(self, step: Step, v: Vec) -> Vec:
        """Return v with the entries that are not perturbed set to zero."""

    def touched(self, step: Step) -> list[bool] | None:
        """Return which parameters it may leave anything of, known before any pass; None is all.

        The weight gradients of the others need not be computed in the ascent pass.
        """
        return None


class Radius(Part, ABC):
    """How far does the perturbation reach?"""

    schedule: ClassVar[bool] = False
    """Whether it changes over the run; a schedule is asked for, and holds beside a default of another recipe."""

    @abstractmethod
    def at(self, step: Step) -> float:
        """Return rho_t, in the units of the metric's norm."""


class Rows(Part, ABC):
    """Which samples does the second gradient see?"""

    @abstractmethod
    def select(self, step: Step, offset: Vec) -> Work:
        """Return the batch that is evaluated at w + offset."""


class Descent(Part, ABC):
    """Which gradient is handed to the base optimizer?"""

    @abstractmethod
    def perturbed(self, step: Step, there: Point) -> Vec:
        """Return u on a step that perturbs; `there` is the point w + epsilon, not yet evaluated."""

    @abstractmethod
    def plain(self, step: Step) -> Vec:
        """Return u on a step that does not perturb."""


@dataclass(frozen=True)
class Rule:
    """A variant: its name and the slots in which it differs from plain SAM.

    `a + b` is the union of what a and b state. Masks intersect. Of two radii the one holds whose rule also states the
    metric or a mask, since that is what it is measured in; a rule that states nothing else but when to perturb gives
    way. Any other slot that both state differently is a conflict.

    Args:
        name: The registry name, or names joined by `+`.
        gate: When to perturb; else always.
        ascent: What is climbed; else the clean gradient.
        ascent_loss: Whose gradient that is; else the task's own loss.
        filter: What is done to it; else nothing.
        metric: Where the radius is measured; else in Euclidean space.
        masks: What may be perturbed; else everything.
        radius: How far; else 0.05.
        rows: What the second gradient sees; else the same batch.
        descent: What is handed on; else the climbed gradient.
        shards: How many pieces of the batch are perturbed on their own; else 1.
        text: The recipe string that builds this rule, with every hyperparameter.
    """

    name: str
    gate: Gate | None = None
    ascent: Ascent | None = None
    ascent_loss: AscentLoss | None = None
    filter: Filter | None = None
    metric: Metric | None = None
    masks: tuple[Mask, ...] = ()
    radius: Radius | None = None
    rows: Rows | None = None
    descent: Descent | None = None
    shards: int | None = None
    text: str = ""

    def __add__(self, other: Rule) -> Rule:
        """Return the union.

        Raises:
            ConflictError: If both state a slot differently, or one would have nothing to act on.
        """
        for a, b in ((self, other), (other, self)):
            if a.gate is not None and a.gate.never and b.stated() - {"gate"}:
                raise ConflictError(
                    f"{a.name} never perturbs, so {b.name} would have nothing to act on (slot: gate)",
                    f"use {b.name} alone",
                )
        merged = {slot: _merge(slot, self, other) for slot in SLOTS if slot not in ("masks", "radius")}
        masks = tuple(dict.fromkeys(self.masks + other.masks))
        name = f"{self.name}+{other.name}"
        return Rule(name=name, masks=masks, radius=_merge_radius(self, other), **merged)

    def stated(self) -> set[str]:
        """Return the names of the slots in which this rule differs from plain SAM."""
        return {slot for slot in SLOTS if getattr(self, slot) not in (None, ())}

    def parts(self) -> list[Part]:
        """Return every part that is stated."""
        stated = [getattr(self, slot) for slot in SLOTS if slot not in ("masks", "shards")]
        return [part for part in stated if part is not None] + list(self.masks)

    def touched(self, step: Step) -> list[bool] | None:
        """Return which parameters the climbed vector is needed on; None is all."""
        if not self.masks or any(part.clean_gradient for part in self.parts()):
            return None
        chosen = [flags for mask in self.masks if mask.inside and (flags := mask.touched(step)) is not None]
        return [all(flags) for flags in zip(*chosen, strict=True)] if chosen else None

    def wants_clean(self) -> bool:
        """Return whether the descent looks at the task's clean gradient on a step that perturbs."""
        return self.descent is not None and self.descent.clean_gradient

    def needs(self) -> set[Need]:
        """Return what the parts cannot do without."""
        return {need for part in self.parts() for need in part.needs}

    def complete(self, **defaults: Any) -> Rule:
        """Return the rule with every unstated slot filled from the defaults."""
        missing = {slot: part for slot, part in defaults.items() if getattr(self, slot) is None}
        return replace(self, **missing)


SLOTS = tuple(f.name for f in fields(Rule) if f.name not in ("name", "text"))


def _merge(slot: str, a: Rule, b: Rule) -> Any:
    mine, theirs = getattr(a, slot), getattr(b, slot)
    if mine is None or theirs is None or mine == theirs:
        return theirs if mine is None else mine
    raise ConflictError(
        f"{a.name} and {b.name} both claim the slot {slot!r} and answer it differently", "leave one of them out"
    )


def _merge_radius(a: Rule, b: Rule) -> Radius | None:
    if a.radius is None or b.radius is None or a.radius == b.radius:
        return a.radius or b.radius
    mine, theirs = _claim(a), _claim(b)
    if mine != theirs:
        return a.radius if mine > theirs else b.radius
    raise ConflictError(
        f"{a.name} and {b.name} both claim the slot 'radius' and answer it differently",
        "give one for both, as in :rho=0.1",
    )


def _claim(rule: Rule) -> int:
    """Return how strongly a rule's radius holds: a schedule, one in its own measure, the method's own, or neither."""
    if rule.radius is not None and rule.radius.schedule:
        return 3
    if rule.metric is not None or rule.masks:
        return 2
    return 1 if rule.stated() - {"gate", "radius"} else 0

"""A variant of sharpness-aware minimisation as the answers to a few questions, and the union of variants.

A slot that a rule leaves at None is answered as plain SAM does.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from sharpkit.core.slots import (
    Ascent,
    AscentLoss,
    Auxiliary,
    Descent,
    Filter,
    Gate,
    Mask,
    Metric,
    Need,
    NewEntry,
    Part,
    Radius,
    Rows,
)
from sharpkit.errors import ConflictError

if TYPE_CHECKING:
    from sharpkit.core.passes import Touched
    from sharpkit.core.step import Step


@dataclass(frozen=True)
class Rule:
    """A variant: its name and the slots in which it differs from plain SAM.

    `a + b` is the union of what a and b state. Masks intersect. Of two radii the one holds whose rule also states the
    metric or a mask, since that is what it is measured in; a rule that states nothing else but when to perturb gives
    way. A rule that adds to the loss and does not perturb leaves it to the other whether to. Any other slot that both
    state differently is a conflict.

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
        auxiliary: What is added to the task's loss; else nothing.
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
    auxiliary: Auxiliary | None = None
    text: str = ""

    def __add__(self, other: Rule) -> Rule:
        """Return the union.

        Raises:
            ConflictError: If both state a slot differently, or one would have nothing to act on.
        """
        mine, theirs = _beside(self, other), _beside(other, self)
        for a, b in ((mine, theirs), (theirs, mine)):
            if a.never and b.stated() - {"gate", "auxiliary"}:
                raise ConflictError(
                    f"{a.name} never perturbs, so {b.name} would have nothing to act on (slot: gate)",
                    f"use {b.name} alone",
                )
        merged = {slot: _merge(slot, mine, theirs) for slot in SLOTS if slot not in ("masks", "radius")}
        name = f"{self.name}+{other.name}"
        return Rule(name=name, masks=_intersect(mine, theirs), radius=_merge_radius(mine, theirs), **merged)

    @property
    def never(self) -> bool:
        """Whether no step perturbs."""
        return self.gate is not None and self.gate.never

    def stated(self) -> set[str]:
        """Return the names of the slots in which this rule differs from plain SAM."""
        return {slot for slot in SLOTS if getattr(self, slot) not in (None, ())}

    def parts(self) -> list[Part]:
        """Return every part that is stated."""
        stated = [getattr(self, slot) for slot in SLOTS if slot not in ("masks", "shards")]
        return [part for part in stated if part is not None] + list(self.masks)

    def touched(self, step: Step) -> list[Touched] | None:
        """Return which parameters, or which rows of them, the climbed vector is needed on; None is all."""
        if any(part.clean_gradient for part in self.parts()) or any(mask.ranks(step) for mask in self.masks):
            return None
        inside = [mask for mask in self.masks if mask.inside]
        chosen = [flags for mask in inside if (flags := mask.touched(step)) is not None]
        if not chosen:
            return None
        touched: list[Touched] = [all(flags) for flags in zip(*chosen, strict=True)]
        for rows in (rows for mask in inside if (rows := mask.rows(step)) is not None):
            touched = [r if flag is True and r is not None else flag for flag, r in zip(touched, rows, strict=True)]
        return touched

    def wants_clean(self) -> bool:
        """Return whether the descent looks at the task's clean gradient on a step that perturbs."""
        return self.descent is not None and self.descent.clean_gradient

    def needs(self) -> set[Need]:
        """Return what the parts cannot do without."""
        return {need for part in self.parts() for need in part.needs}

    def aligned(self) -> dict[str, NewEntry | None]:
        """Return which lists the parts remember by parameter, and how new entries begin."""
        return {key: new for part in self.parts() for key, new in part.aligned.items()}

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


def _beside(rule: Rule, other: Rule) -> Rule:
    """Return the rule without its gate where that gives way to the other's."""
    yields = [r.gate is not None and r.gate.yields for r in (rule, other)]
    return replace(rule, gate=None) if yields == [True, False] else rule


def _intersect(a: Rule, b: Rule) -> tuple[Mask, ...]:
    for mine, theirs in itertools.product(a.masks, b.masks):
        if mine.family and mine.family == theirs.family and mine != theirs:
            raise ConflictError(
                f"{a.name} and {b.name} both claim the slot 'masks' and answer it differently",
                "leave one of them out",
            )
    return tuple(dict.fromkeys(a.masks + b.masks))


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
    return 1 if rule.stated() - {"gate", "radius", "auxiliary"} else 0

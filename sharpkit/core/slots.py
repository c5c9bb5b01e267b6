"""The questions that the step asks, one slot each; a variant answers those in which it differs from plain SAM.

Every answer is a part: a frozen dataclass of hyperparameters. Whatever a part must remember it keeps in the step's
memory, which the engine owns, saves and restores.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor

from sharpkit.core.vec import Vec

if TYPE_CHECKING:
    from sharpkit.core.memory import Drawer
    from sharpkit.core.point import Point
    from sharpkit.core.step import Step
    from sharpkit.core.task import Batch, Tree
    from sharpkit.core.work import Work

Need = Literal["batch", "indices", "whole_batch", "total_steps", "steps_per_epoch", "samples", "past", "whole_tensors"]
"""What a part cannot do without.

The batch itself (not a closure), sample indices, a single shard, the clock's ends, the number of training samples,
what the step before left behind, parameters that are not sharded.
"""


NewEntry = Callable[[Tensor], Any]
"""Given a parameter that joins, what a list in memory with one entry a parameter begins with for it."""


@dataclass(frozen=True)
class Part:
    """An answer to one of the questions."""

    needs: ClassVar[frozenset[Need]] = frozenset()
    clean_gradient: ClassVar[bool] = False
    """Whether it looks at the whole clean gradient on a step that perturbs; else masks may leave parts of it out."""
    aligned: ClassVar[Mapping[str, NewEntry | None]] = MappingProxyType({})
    """Which lists it remembers by parameter, by key; None says that one is not, whatever it looks like.

    When parameters are frozen their entries are dropped, and what joins has a new entry. Lists of tensors of the
    parameters' shapes need not be declared: they begin at zero.
    """


class Gate(Part, ABC):
    """Perturb on this step? Asked once a step, also where the batch is cut into shards."""

    never: ClassVar[bool] = False
    yields: ClassVar[bool] = False
    """Whether it gives way to the gate of whatever its rule joins, plain SAM's included."""

    @abstractmethod
    def perturbs(self, step: Step) -> bool:
        """Decide; the same on every rank. Reading a tensor's value here waits for the device."""


class Ascent(Part, ABC):
    """Which vector is climbed?"""

    @abstractmethod
    def direction(self, step: Step) -> Vec:
        """Return v, aligned with the parameters."""

    def known(self, memory: Drawer) -> tuple[Vec, Work] | None:
        """Return the task's gradient that the next step climbs and its batch, where a step before left them."""
        return None


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
    standing: ClassVar[bool] = False
    """Whether it leaves the same parameters out on every step, so that other masks choose among the rest."""
    family: ClassVar[str] = ""
    """Masks of one family answer the same question, and a union has room for one of them."""

    def begin(self, whole: Step) -> None:
        """See every step before its first pass."""

    @abstractmethod
    def apply(self, step: Step, v: Vec) -> Vec:
        """Return v with the entries that are not perturbed set to zero."""

    def ranks(self, step: Step) -> bool:
        """Return whether on this step it looks at all of the climbed vector."""
        return False

    def touched(self, step: Step) -> list[bool] | None:
        """Return which parameters it may leave anything of, known before any pass; None is all.

        The weight gradients of the others need not be computed in the ascent pass.
        """
        return None

    def rows(self, step: Step) -> list[Tensor | None] | None:
        """Return of which rows (slices along the first axis) it may leave anything of, where it is not all of them."""
        return None


class Auxiliary(Part, ABC):
    """What is added to the task's loss, in every pass?

    It compares a batch's outputs with something that is known before its first pass: what was recorded earlier, or
    what another model says.
    """

    @abstractmethod
    def reference(self, whole: Step) -> Tree | None:
        """Return what the outputs are compared with, (B, ...) tensors; None adds nothing on this step."""

    @abstractmethod
    def losses(self, outputs: Tensor, reference: Tree) -> Tensor:
        """Return what is added to the loss of every sample, (B,)."""

    @abstractmethod
    def see(self, whole: Step, outputs: Tensor) -> None:
        """See the outputs (B, ...) of the clean pass, before the base optimizer moves."""

    def moved(self, whole: Step) -> None:
        """See where the base optimizer has moved."""


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

    independent: ClassVar[bool] = False
    """Whether it asks for all gradients of a step at once, none of which depends on another (`Step.together`)."""

    @abstractmethod
    def perturbed(self, step: Step, there: Point) -> Vec:
        """Return u on a step that perturbs; `there` is the point w + epsilon, not yet evaluated."""

    @abstractmethod
    def plain(self, step: Step) -> Vec:
        """Return u on a step that does not perturb."""

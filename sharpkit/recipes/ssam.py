"""Sparse SAM: perturb a small part of the weights."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sharpkit.core.fisher import FisherMode
from sharpkit.core.parts import Constant
from sharpkit.core.rule import Rule
from sharpkit.core.slots import Mask, Need, NewEntry
from sharpkit.core.step import Clock, Step
from sharpkit.core.vec import Vec
from sharpkit.errors import UsageError, check_range
from sharpkit.recipes.structures import STRUCTURES, Structure, StructureName

FisherOrRandom = Literal["fisher", "random"]
Drop = Literal["flat", "random", "sharp"]


def _aligned(key: str) -> dict[str, NewEntry | None]:
    """Return what a mask remembers by parameter; nothing is known of one that joins."""
    return {f"{key}.mask": lambda _: None, f"{key}.rows": lambda _: None, f"{key}.touched": lambda _: False}


@dataclass(frozen=True)
class SparseMask(Mask):
    """A mask of k = d - round(sparsity d) entries that is made anew every `tm` epochs; with tm = 0 it is fixed.

    d counts every parameter that requires a gradient, whether or not one reaches it. Where parameters were frozen,
    unfrozen or added since the mask was made, d is another number, and the mask is made anew before the next step.

    Args:
        sparsity: Fraction of the entries that are not perturbed, in [0, 1].
        tm: Epochs from one mask to the next.
        structure: What the entries come in.
    """

    sparsity: float
    tm: int
    structure: StructureName
    family: ClassVar[str] = "sparse"
    key: ClassVar[str]
    needs: ClassVar[frozenset[Need]] = frozenset({"steps_per_epoch", "whole_tensors"})

    def __post_init__(self) -> None:
        check_range("sparsity", self.sparsity, 0, 1)
        check_range("tm", self.tm, 0)
        if self.structure == "2:4" and self.sparsity != 0.5:
            raise UsageError(f"structure is 2:4 and sparsity is {self.sparsity:g}, allowed is 0.5", "use sparsity=0.5")

    @abstractmethod
    def flags(self, step: Step, structure: Structure, before: Tensor | None) -> Tensor:
        """Return the flags (units,) of the new mask.

        Args:
            step: Whose mask is made.
            structure: The units.
            before: The flags of the mask until now, if there is one; none of a parameter that has joined.
        """

    def apply(self, step: Step, v: Vec) -> Vec:
        """Return v with zeros outside the mask."""
        step.note("mask_density", torch.tensor(step.shared[f"{self.key}.density"]))
        step.note("mask_churn", torch.tensor(step.shared[f"{self.key}.churn"]))
        return [t * m for t, m in zip(v, step.shared[f"{self.key}.mask"], strict=True)]

    def due(self, step: Step) -> bool:
        """Return whether this step makes a new mask."""
        return self.ended(step) or self.of_others(step)

    def ended(self, step: Step) -> bool:
        """Return whether the epochs of the mask are over."""
        made = step.shared.get(f"{self.key}.period")
        return made is None or made != self._period(step)

    def of_others(self, step: Step) -> bool:
        """Return whether there is a mask, and it is of other parameters than those that are trained now."""
        known = step.shared.get(f"{self.key}.names")
        return known is not None and known != list(step.names)

    def renew(self, step: Step) -> None:
        """Make a new mask if it is time, and remember it, its density and how much of it has changed."""
        if not self.due(step):
            return
        structure = STRUCTURES[self.structure](step.params, step.standing(), step.owners)
        before = step.shared.get(f"{self.key}.mask")
        if before is not None:
            dead = torch.zeros((), dtype=torch.bool, device=step.params[0].device)
            before = [dead if m is None else m for m in before]
        mask = structure.expand(self.flags(step, structure, None if before is None else structure.flags(before)))
        total = sum(p.numel() for p in step.params)
        step.shared[f"{self.key}.mask"] = mask
        step.shared[f"{self.key}.touched"] = [bool(m.any()) for m in mask]
        step.shared[f"{self.key}.rows"] = [_rows(m) for m in mask]
        step.shared[f"{self.key}.density"] = _entries(mask, step.params) / total
        changed = mask if before is None else [a ^ b for a, b in zip(mask, before, strict=True)]
        step.shared[f"{self.key}.churn"] = 0.0 if before is None else _entries(changed, step.params) / total
        step.shared[f"{self.key}.period"] = self._period(step)
        step.shared[f"{self.key}.names"] = list(step.names)

    def touched(self, step: Step) -> list[bool]:
        """Return which parameters the mask leaves anything of."""
        return step.shared[f"{self.key}.touched"]

    def rows(self, step: Step) -> list[Tensor | None] | None:
        """Return the filters that the mask leaves."""
        return step.shared[f"{self.key}.rows"] if self.structure == "filter" else None

    def _period(self, step: Step) -> int:
        return step.clock.epoch // self.tm if self.tm else 0


def _rows(mask: Tensor) -> Tensor | None:
    """Return the rows of a mask of rows, where it is one and not all of them are there."""
    by_row = mask.dim() > 1 and mask.numel() == mask.shape[0]
    return torch.nonzero(mask.flatten()).flatten() if by_row and not bool(mask.all()) else None


def _entries(mask: Vec, params: Sequence[Tensor]) -> int:
    return sum(int(m.sum()) * (p.numel() // m.numel()) for m, p in zip(mask, params, strict=True))


@dataclass(frozen=True)
class FisherMask(SparseMask):
    """The entries of the largest diagonal of the empirical Fisher information, or random ones.

    Args:
        nf: Samples that the Fisher information is estimated from.
        mask: `fisher` or `random`.
        fisher_mode: `eval`, or `official` for single samples in training mode.
    """

    nf: int = 128
    mask: FisherOrRandom = "fisher"
    fisher_mode: FisherMode = "eval"
    key: ClassVar[str] = "ssam-f"
    aligned: ClassVar[Mapping[str, NewEntry | None]] = _aligned(key)
    needs: ClassVar[frozenset[Need]] = frozenset({"batch", "steps_per_epoch", "whole_tensors"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("nf", self.nf, 1)

    def begin(self, whole: Step) -> None:
        """Make the mask before the step's first pass, which moves batch-norm statistics."""
        self.renew(whole)

    def flags(self, step: Step, structure: Structure, before: Tensor | None) -> Tensor:
        """Return the flags of the k largest entries."""
        if self.mask == "random":
            return structure.select(structure.random(step.generator), self.sparsity)
        fisher = step.squared_gradients(step.training_samples(self.nf), self.fisher_mode)
        return structure.select(structure.reduce(fisher), self.sparsity)


@dataclass(frozen=True)
class FisherBlocks(FisherMask):
    """The same in blocks, with the norm over what is perturbed, since the rest of the gradient is not computed."""

    inside: ClassVar[bool] = True


@dataclass(frozen=True)
class DynamicMask(SparseMask):
    """A random mask at first, of which a falling part is exchanged: the flattest live entries for random dead ones.

    Where the trained parameters are others than before, the live entries of those that are left stay live, and random
    ones make up or bring down the count to k.

    In epoch e of E the part is (alpha / 2) (1 + cos(pi e / E)) of the live entries, at most as many as are dead.

    Args:
        alpha: The part at the beginning, in [0, 1].
        drop: Which live entries leave: those of the smallest |g| (`flat`), of the largest (`sharp`), or `random` ones.
    """

    alpha: float = 0.5
    drop: Drop = "flat"
    key: ClassVar[str] = "ssam-d"
    aligned: ClassVar[Mapping[str, NewEntry | None]] = _aligned(key)
    needs: ClassVar[frozenset[Need]] = frozenset({"steps_per_epoch", "total_steps", "whole_tensors"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("alpha", self.alpha, 0, 1)

    def ranks(self, step: Step) -> bool:
        """Return whether this step makes a new mask from the climbed vector."""
        return self.due(step)

    def apply(self, step: Step, v: Vec) -> Vec:
        """Exchange entries if it is time, and return v with zeros outside the mask."""
        self.renew(step)
        return super().apply(step, v)

    def flags(self, step: Step, structure: Structure, before: Tensor | None) -> Tensor:
        """Return the flags after an exchange, from those of a random mask at first."""
        if before is None:
            before = structure.select(structure.random(step.generator), self.sparsity)
        elif self.of_others(step):
            # What is live stays live as far as k goes, and what is missing to k is random.
            before = structure.select(structure.random(step.generator) + before, self.sparsity)
        if not self.tm or not self.ended(step):
            return before
        worth = self._worth(step, structure)
        luck = structure.random(step.generator)
        return structure.exchange(before, worth, luck, self.fraction(step.clock), self.sparsity)

    def fraction(self, clock: Clock) -> float:
        """Return f = (alpha / 2) (1 + cos(pi e / E)), the part of the live entries that moves in epoch e of E."""
        assert clock.steps_per_epoch is not None
        assert clock.total_steps is not None
        done = min(1.0, clock.epoch * clock.steps_per_epoch / clock.total_steps)
        return self.alpha / 2 * (1 + math.cos(math.pi * done))

    def _worth(self, step: Step, structure: Structure) -> Tensor:
        if self.drop == "random":
            return structure.random(step.generator)
        assert step.climbed is not None
        steepness = step.of_first(structure.reduce([t.abs() for t in step.climbed]))
        return steepness if self.drop == "flat" else -steepness


@dataclass(frozen=True)
class DynamicBlocks(DynamicMask):
    """The same in blocks, with the norm over what is perturbed, since the rest of the gradient is not computed."""

    inside: ClassVar[bool] = True


def ssam_f(
    rho: float = 0.1,
    sparsity: float = 0.5,
    nf: int = 128,
    tm: int = 1,
    mask: FisherOrRandom = "fisher",
    structure: StructureName = "element",
    fisher_mode: FisherMode = "eval",
) -> Rule:
    """Perturb the entries that the Fisher information says matter most: epsilon = m * rho g / ||g||.

    m is 1 on the k = d - round(sparsity d) largest entries of F = (1 / N) sum_i (grad l_i)^2, over all parameters
    jointly, from nf training samples; it is made before the first step and anew every tm epochs. Mi, Shen, Ren, Zhou,
    Sun, Ji, Tao (2022), "Make Sharpness-Aware Minimization Stronger: A Sparsified Perturbation Approach", eqs. (4)-(6)
    and Algorithm 1. The norm is that of the whole gradient, so the radius shrinks with the mask; by filter or tensor
    it is taken over what is perturbed, and the rest of the gradient is not computed. Unlike the official code, which
    estimates F in training mode from one sample at a time and first uses a mask in the second step, we do so in
    evaluation mode from all at once, before the first. Cost: 2 gradients a step, and nf samples every tm epochs.

    Args:
        rho: Radius, Euclidean norm over all parameters jointly, before the mask.
        sparsity: Fraction of the entries that are not perturbed, in [0, 1]; 0 is SAM.
        nf: Samples that F is estimated from.
        tm: Epochs from one mask to the next; 0 keeps the first.
        mask: `fisher`, or `random` for as many random entries.
        structure: `element`, whole `filter`s or `tensor`s, or `2:4`: two of every four entries of a row.
        fisher_mode: `eval`, or `official` for single samples in training mode, which move batch-norm statistics.

    Raises:
        UsageError: If a value is out of range.
    """
    kind = FisherBlocks if STRUCTURES[structure].inside else FisherMask
    return Rule("ssam-f", masks=(kind(sparsity, tm, structure, nf, mask, fisher_mode),), radius=Constant(rho))


def ssam_d(
    rho: float = 0.1,
    sparsity: float = 0.5,
    alpha: float = 0.5,
    tm: int = 1,
    drop: Drop = "flat",
    structure: StructureName = "element",
) -> Rule:
    """Perturb a random part of the weights that moves away from where it is flat: epsilon = m * rho g / ||g||.

    m starts with k = d - round(sparsity d) random ones. Every tm epochs N = min(f k, d - k) live entries of the
    smallest |g| leave and N random others take their place, with f = (alpha / 2) (1 + cos(pi e / E)) in epoch e of E.
    Mi, Shen, Ren, Zhou, Sun, Ji, Tao (2022), "Make Sharpness-Aware Minimization Stronger: A Sparsified Perturbation
    Approach", eqs. (7)-(8) and Algorithm 2. The official code limits what grows but not what leaves, so that a sparsity
    below a third loses density; here both are N. By filter or tensor the norm is taken over what is perturbed, and the
    rest of the gradient is not computed. Cost: 2 gradients a step.

    Args:
        rho: Radius, Euclidean norm over all parameters jointly, before the mask.
        sparsity: Fraction of the entries that are not perturbed, in [0, 1]; 0 is SAM.
        alpha: Part of the live entries that is exchanged at first, in [0, 1].
        tm: Epochs from one exchange to the next; 0 keeps the random mask.
        drop: Live entries that leave: `flat`, `sharp` or `random`.
        structure: `element`, whole `filter`s or `tensor`s, or `2:4`: two of every four entries of a row.

    Raises:
        UsageError: If a value is out of range.
    """
    kind = DynamicBlocks if STRUCTURES[structure].inside else DynamicMask
    return Rule("ssam-d", masks=(kind(sparsity, tm, structure, alpha, drop),), radius=Constant(rho))

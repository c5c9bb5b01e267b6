"""SAM on the normalisation layers alone, or on all but them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

from sharpkit.core.parts import Constant
from sharpkit.core.rule import Rule
from sharpkit.core.slots import Mask
from sharpkit.core.step import Step
from sharpkit.core.vec import Vec
from sharpkit.errors import UsageError

NORMALISATIONS: tuple[type[nn.Module], ...] = (
    nn.modules.batchnorm._BatchNorm,  # pyright: ignore[reportPrivateUsage]
    nn.modules.instancenorm._InstanceNorm,  # pyright: ignore[reportPrivateUsage]
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)

Norm = Literal["only", "except"]


@dataclass(frozen=True)
class NormLayers(Mask):
    """Perturb the parameters of normalisation layers only, or all others; the norm is taken over what is perturbed.

    Args:
        norm: `only` or `except`.
    """

    norm: Norm
    inside: ClassVar[bool] = True
    standing: ClassVar[bool] = True

    def apply(self, step: Step, v: Vec) -> Vec:
        """Return v with zeros outside."""
        return [t if c else torch.zeros_like(t) for t, c in zip(v, self.touched(step), strict=True)]

    def touched(self, step: Step) -> list[bool]:
        """Return which parameters are perturbed.

        Raises:
            UsageError: If there are none.
        """
        chosen = [isinstance(owner, NORMALISATIONS) == (self.norm == "only") for owner in step.owners]
        if not any(chosen):
            raise UsageError(
                f"norm is {self.norm!r}, and the model has no such parameters",
                "sam-on needs batch, instance, layer, group or RMS norm with affine parameters; use sam",
            )
        return chosen


def sam_on(rho: float = 0.5, norm: Norm = "only") -> Rule:
    """Perturb the affine parameters of normalisation layers only: epsilon = rho g_N / ||g_N|| on N, 0 elsewhere.

    Mueller, Vlaar, Rolnick, Hein (2023), "Normalization Layers Are All That Sharpness-Aware Minimization Needs",
    section 3. All parameters are updated by the perturbed gradient. Layers are found by their type, where the
    official code looks for "norm" or "bn" in a parameter's name and so misses some and takes others. Weight gradients
    of the other parameters are not computed in the first pass. Cost: 2 gradients a step, the first at two thirds of
    the work.

    Args:
        rho: Radius, Euclidean norm over the perturbed parameters; about 10 times that of sam.
        norm: `only` perturbs the normalisation layers, `except` everything but them.

    Raises:
        UsageError: If rho is negative.
    """
    return Rule("sam-on", masks=(NormLayers(norm),), radius=Constant(rho))

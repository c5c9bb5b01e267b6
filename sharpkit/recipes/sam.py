"""Sharpness-aware minimisation."""

from __future__ import annotations

from sharpkit.core.parts import Constant
from sharpkit.core.rule import Rule


def sam(rho: float = 0.05) -> Rule:
    """Descend by the gradient at the worst point of a ball: epsilon = rho g / ||g||, u = grad L(B; w + epsilon).

    Foret, Kleiner, Mobahi, Neyshabur (2021), "Sharpness-Aware Minimization for Efficiently Improving Generalization",
    eqs. (2)-(3) and Algorithm 1. Weight decay is the base optimizer's, not in the loss as in the official JAX code,
    and the logged loss is the clean one. Cost: 2 gradients a step.

    Args:
        rho: Radius of the ball, Euclidean norm over all parameters jointly. 0.05 for CIFAR-10 and ImageNet.

    Raises:
        UsageError: If rho is negative.
    """
    return Rule("sam", radius=Constant(rho))

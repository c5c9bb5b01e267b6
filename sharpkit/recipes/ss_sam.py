"""Stochastic scheduled sharpness-aware minimisation."""

from __future__ import annotations

from sharpkit.core.parts import Bernoulli, Constant
from sharpkit.core.rule import Rule


def ss_sam(rho: float = 0.1, p: float = 0.5) -> Rule:
    """Perturb on a random fraction p of the steps: X ~ Bernoulli(p) before any pass; X = 1 is a SAM step, else u = g.

    Zhao, Zhang, Hu (2022), "SS-SAM: Stochastic Scheduled Sharpness-Aware Minimization for Efficiently Training Deep
    Neural Networks", Algorithm 1, with the constant schedule. The draws come from the rule's own stream, which is the
    same on every rank and part of the checkpoint. Cost: 1 + p gradients a step.

    Args:
        rho: Radius, Euclidean norm over all parameters jointly.
        p: Probability of a perturbation, in [0, 1]; 1 is SAM, 0 the base optimizer.

    Raises:
        UsageError: If rho is negative or p outside [0, 1].
    """
    return Rule("ss-sam", gate=Bernoulli(p), radius=Constant(rho))

"""m-sharpness: every shard of the batch has its own perturbation."""

from __future__ import annotations

from sharpkit.core.parts import Constant, number_of_shards
from sharpkit.core.rule import Rule


def msam(rho: float = 0.05, m: int = 4) -> Rule:
    """Perturb every shard of the batch on its own: u = sum_i (|S_i| / |B|) grad L(S_i; w + rho g_i / ||g_i||).

    Foret, Kleiner, Mobahi, Neyshabur (2021), section 4.1, and Behdin et al. (2023), "mSAM: Micro-Batch-Averaged
    Sharpness-Aware Minimization". m is the number of shards; in Foret et al. it is the size of one. Batch norm sees
    one shard at a time and keeps the statistics of every clean pass. Cost: 2 gradients a step, in 2 m small passes.

    Args:
        rho: Radius of every shard's ball, Euclidean norm over all parameters jointly.
        m: Number of contiguous shards; 1 is SAM. A batch of fewer samples has as many shards as samples.

    Raises:
        UsageError: If rho is negative or m below 1.
    """
    return Rule("msam", radius=Constant(rho), shards=number_of_shards(m))

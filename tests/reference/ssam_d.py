"""SSAM-D: Mi et al. (2022), Algorithm 1 with the mask of Algorithm 3: eps = m * rho g / ||g||, u = grad L(B; w + eps).

Of the live entries the N of the smallest |g| die at the first step of every tm-th epoch, before its perturbation, and
N of the dead ones, drawn at random, come alive: N = min(f live, dead), f = (alpha / 2) (1 + cos(pi e / E)) in epoch e
of E. The masks are drawn, so they are given, one a step; `exchanged` and `survivors` are the rules that they keep.
"""

import numpy as np

from .problems import EPOCH
from .ssam_f import sparse, units

GRADIENTS = ([2, 2, 2], [2, 2, 2])
CASES = []
MASKED = [
    *({"rho": 0.3, "sparsity": s} for s in (0.2, 0.5, 0.9)),
    *({"rho": 0.3, "drop": drop, "alpha": 0.9} for drop in ("sharp", "random")),
    *({"rho": 0.3, "tm": tm} for tm in (0, 2)),
    *({"rho": 0.3, "structure": x} for x in ("filter", "tensor", "2:4")),
]


def fraction(epoch, epochs, alpha=0.5):
    return alpha / 2 * (1 + np.cos(np.pi * epoch / epochs))


def exchanged(mask, t, steps, alpha=0.5):
    """N at the first step of an epoch, in a run of so many steps."""
    live = int(mask.sum())
    return round(min(fraction(t // EPOCH, steps / EPOCH, alpha) * live, len(mask) - live))


def survivors(mask, g, n, drop, shapes, structure="element"):
    """What is left when whole live units of the smallest |g|, or the largest, die: n entries at most.

    The later of two equals is the smaller.
    """
    unit = units(shapes, structure)
    sizes = np.bincount(unit)
    size_of_g = np.bincount(unit, np.abs(g)) / sizes
    order = np.argsort(-size_of_g, kind="stable")
    left = mask.copy()
    for u in order if drop == "sharp" else order[::-1]:
        if mask[unit == u].all() and sizes[u] <= n:
            left[unit == u] = False
            n -= sizes[u]
    return left


def trajectory(problem, base, steps, masks, rho=0.1, structure="element", **decided_by_the_masks):
    w = problem.start
    path = [w]
    for t in range(steps):
        g = problem.gradient(w, t, clean=True)
        w = base.step(w, problem.gradient(w + sparse(g, masks[t], rho, structure), t))
        path.append(w)
    return path

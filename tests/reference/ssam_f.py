"""SSAM-F: Mi et al. (2022), Algorithm 1: eps = m * rho g / ||g||, u = grad L(B; w + eps).

m keeps k = d - round(s d) entries, those of the largest F = mean_i (grad l_i(w))^2 over the first samples of the batch
before which it is made: that of the first step of every tm-th epoch, and once for all with tm = 0. Where whole units
are kept, filters or tensors, they are ranked by their mean F and the norm is that of m * g alone.
"""

import numpy as np

from .problems import EPOCH
from .sam import ball

GRADIENTS = ([3, 2, 2], [3, 2, 2])  # all samples of the first batch make the mask
CASES = [
    *({"rho": 0.3, "sparsity": s} for s in (0.2, 0.5, 0.9)),
    {"rho": 0.3, "nf": 3, "tm": 2},
    {"rho": 0.3, "sparsity": 0.8, "tm": 0},
    *({"rho": 0.3, "sparsity": s, "structure": "filter"} for s in (0.2, 0.5)),
    {"rho": 0.3, "sparsity": 0.6, "structure": "tensor", "nf": 5},
    {"rho": 0.3, "structure": "2:4"},
]
MASKED = [
    *({"rho": 0.3, "mask": "random", "structure": x} for x in ("element", "filter", "tensor", "2:4")),
    *({"rho": 0.3, "mask": "random", "sparsity": 0.8, "tm": tm} for tm in (0, 2)),
]


def refreshed(t, tm):
    """Whether a mask is made before step t."""
    epoch, place = divmod(t, EPOCH)
    return t == 0 if tm == 0 else place == 0 and epoch % tm == 0


def units(shapes, structure):
    """The unit that every entry belongs to, numbered in the order of the parameters."""
    numbers, count = [], 0
    for shape in shapes.values():
        own = {"element": shape.numel(), "filter": shape[0] if len(shape) > 1 else 1, "tensor": 1}[structure]
        numbers.append(count + np.repeat(np.arange(own), shape.numel() // own))
        count += own
    return np.concatenate(numbers)


def largest(score, unit, k, inside):
    """Units by mean score, the first of equals first, each taken if it still fits into k entries."""
    sizes = np.bincount(unit)
    ranked = np.argsort(-np.bincount(unit, score) / sizes, kind="stable")
    ranked = [u for u in ranked if inside[unit == u].all()]
    taken, left = [], k
    for u in ranked:
        if sizes[u] <= left:
            taken.append(u)
            left -= sizes[u]
    if not taken and sizes.max() > 1:
        taken = [min(ranked, key=lambda u: sizes[u])]  # the first of the smallest
    return np.isin(unit, taken)


def two_of_four(score, shapes):
    """Half of every four neighbours in a row, and tensors of one axis whole."""
    masks, start = [], 0
    for shape in shapes.values():
        part = score[start : start + shape.numel()]
        start += shape.numel()
        mask = np.ones(part.shape, dtype=bool)
        width = shape.numel() // shape[0]
        for row in range(0, len(part), width) if len(shape) > 1 else ():
            for a in range(row, row + width, 4):
                b = min(a + 4, row + width)
                mask[a:b] = False
                mask[a + np.argsort(-part[a:b], kind="stable")[: (b - a + 1) // 2]] = True
        masks.append(mask)
    return np.concatenate(masks)


def fisher_mask(problem, w, t, sparsity=0.5, nf=128, structure="element", inside=None):
    score = problem.squares(w, t, min(nf, problem.size(t)))
    inside = np.ones_like(score, dtype=bool) if inside is None else inside
    if structure == "2:4":
        return two_of_four(score, problem.shapes) & inside
    d = int(inside.sum())
    return largest(score, units(problem.shapes, structure), d - round(sparsity * d), inside)


def sparse(g, m, rho, structure):
    return ball(None, m * g, rho) if structure in ("filter", "tensor") else m * ball(None, g, rho)


def trajectory(
    problem,
    base,
    steps,
    rho=0.1,
    sparsity=0.5,
    nf=128,
    tm=1,
    mask="fisher",
    structure="element",
    inside=None,
    masks=None,
):
    """Random masks are given, one a step; `inside` is what there is to choose from, all by default."""
    w = problem.start
    path = [w]
    for t in range(steps):
        if mask == "random":
            m = masks[t]
        elif refreshed(t, tm):
            m = fisher_mask(problem, w, t, sparsity, nf, structure, inside)
        g = problem.gradient(w, t, clean=True)
        if inside is not None:
            g = np.where(inside, g, 0.0)
        w = base.step(w, problem.gradient(w + sparse(g, m, rho, structure), t))
        path.append(w)
    return path

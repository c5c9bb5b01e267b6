"""ESAM as its authors' class takes a step: Du et al. (2022), dydjw9/Efficient_SAM at 1e06840.

A tensor is out of a step's ascent when a uniform draw exceeds beta, each on its own. The ascent moves every other
tensor by rho / beta along its part of the gradient over the joint norm of these parts: the factor 1 / beta is there in
every step, also in one whose draws leave no tensor out. The descent is on the samples of the largest l(w + eps) - l(w),
floor(gamma b) of them, as the paper says, and at least one.

`kept` gives, for every step, one flag a tensor: whether it is in.
"""

import numpy as np

GRADIENTS = ([1.5, 1.5, 1.5], [1.5, 1.5, 1.5])
CASES = [{"beta": 1.0, "gamma": 0.5}, {"rho": 0.5, "beta": 1.0, "gamma": 0.7}]


def per_sample(problem, w, t):
    """The loss of every sample of batch t at w, from the outputs that the problem shows to a slope."""
    outputs = []

    def slope(z, y):
        outputs.append((z, y))
        return np.zeros_like(z)

    problem.gradient(w, t, slope=slope)
    z, y = outputs[-1]
    if not problem.classifies:
        return ((z - y) ** 2).sum(axis=1) / 2
    shifted = z - z.max(axis=1, keepdims=True)
    return np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(y)), y]


def ascended(w, g, sizes, flags, rho, beta):
    """w + eps: tensor by tensor, the scale being one number for all of them, as in the authors' first_step."""
    parts = np.split(g, np.cumsum(sizes)[:-1])
    norm = np.sqrt(sum((part**2).sum() for part, flag in zip(parts, flags, strict=True) if flag))
    scale = rho / (norm + 1e-12) / beta
    return w + np.concatenate([scale * part if flag else 0.0 * part for part, flag in zip(parts, flags, strict=True)])


def trajectory(problem, base, steps, rho=0.05, beta=0.6, gamma=0.5, kept=None):
    sizes = [int(np.prod(shape)) for shape in problem.shapes.values()]
    w = problem.start
    path = [w]
    for t in range(steps):
        flags = [True] * len(sizes) if kept is None else kept[t]
        g = problem.gradient(w, t, clean=True)
        there = ascended(w, g, sizes, flags, rho, beta)
        rise = per_sample(problem, there, t) - per_sample(problem, w, t)
        k = max(1, int(gamma * len(rise)))
        hardest = sorted(sorted(range(len(rise)), key=lambda i: -rise[i])[:k])
        w = base.step(w, problem.gradient(there, t, rows=np.array(hardest)))
        path.append(w)
    return path

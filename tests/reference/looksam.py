"""LookSAM: Liu et al. (2022).

t mod k = 0: u = h of SAM, and g_v = h - (g'h / ||g||^2) g is kept; else u = g + alpha (||g|| / ||g_v||) g_v.
Products and norms run over all tensors, or over each one with scope "tensor"; a g_v shorter than 1e-12 is not used.
"""

import numpy as np

from .sam import ball

GRADIENTS = ([2, 1, 1], [2, 1, 1])
CASES = [{"k": 3}, {"rho": 0.3, "alpha": 0.3, "scope": "tensor"}]


def direction(g, h):
    return h - (g @ h) / (g @ g) * g


def reuse(g, gv, alpha):
    length = np.sqrt(gv @ gv)
    return g if length < 1e-12 else g + alpha * np.sqrt(g @ g) / length * gv


def blockwise(function, ends, *vectors):
    """The function of each block of the vectors, one after the other."""
    return np.concatenate([function(*block) for block in zip(*(np.split(v, ends) for v in vectors), strict=True)])


def trajectory(problem, base, steps, rho=0.1, k=5, alpha=0.7, scope="global"):
    ends = {"global": [], "tensor": problem.ends}[scope]
    w = problem.start
    path = [w]
    for t in range(steps):
        g = problem.gradient(w, t, clean=True)
        if t % k == 0:
            u = problem.gradient(w + ball(w, g, rho), t)
            gv = blockwise(direction, ends, g, u)
        else:
            u = blockwise(lambda a, b: reuse(a, b, alpha), ends, g, gv)
        w = base.step(w, u)
        path.append(w)
    return path

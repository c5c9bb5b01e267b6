"""SAM-ON: Mueller et al. (2023): eps = rho g_P / ||g_P|| on the affine parameters P of normalisation layers; u = h.

Elsewhere eps = 0; norm "except" exchanges P and the rest.
"""

import numpy as np

from .sam import ball

GRADIENTS = ([2, 2, 2], [2, 2, 2])
CASES = [{}, {"rho": 0.3, "norm": "except"}]
PROBLEMS = ("batch-norm", "layer-norm")  # norm layers
NETS = ("batch-norm", "dropout")


def inside(problem, v, norm):
    return np.where({"only": problem.is_norm, "except": ~problem.is_norm}[norm], v, 0.0)


def trajectory(problem, base, steps, rho=0.5, norm="only"):
    w = problem.start
    path = [w]
    for t in range(steps):
        g = problem.gradient(w, t, clean=True)
        w = base.step(w, problem.gradient(w + ball(w, inside(problem, g, norm), rho), t))
        path.append(w)
    return path

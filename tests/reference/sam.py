"""SAM: Foret et al. (2021), eqs. (2)-(3), Algorithm 1: eps = rho g / ||g||, u = grad L(B; w + eps)."""

import numpy as np

GRADIENTS = ([2, 2, 2], [2, 2, 2])
CASES = [{"rho": 0.05}]


def ball(w, v, rho):
    return rho * v / (np.sqrt(np.sum(v**2)) + 1e-12)


def trajectory(problem, base, steps, rho=0.05):
    w = problem.start
    path = [w]
    for t in range(steps):
        g = problem.gradient(w, t, clean=True)
        h = problem.gradient(w + ball(w, g, rho), t)
        w = base.step(w, h)
        path.append(w)
    return path

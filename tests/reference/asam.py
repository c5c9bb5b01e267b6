"""ASAM: Kwon et al. (2021), eqs. (9)-(10): eps = rho T^2 g / ||T g||, T = |w| + eta on weights, 1 elsewhere."""

import numpy as np

GRADIENTS = ([2, 2, 2], [2, 2, 2])
CASES = [{"rho": 0.3}, {"rho": 0.3, "eta": 0.0, "scope": "all"}]


def ellipsoid(w, v, rho, eta, scope, is_weight):
    inside = np.ones_like(w, dtype=bool) if scope == "all" else is_weight
    T = np.where(inside, np.abs(w) + eta, 1.0)  # noqa: N806
    return rho * T**2 * v / (np.sqrt(np.sum((T * v) ** 2)) + 1e-12)


def trajectory(problem, base, steps, rho=0.5, eta=0.01, scope="weights"):
    w = problem.start
    path = [w]
    for t in range(steps):
        g = problem.gradient(w, t, clean=True)
        h = problem.gradient(w + ellipsoid(w, g, rho, eta, scope, problem.is_weight), t)
        w = base.step(w, h)
        path.append(w)
    return path

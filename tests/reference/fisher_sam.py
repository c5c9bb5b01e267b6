"""Fisher-SAM: Kim et al. (2022): eps = rho F^-1 g / sqrt(g' F^-1 g), F^-1 = diag(1 / (1 + eta g^2)); u = h."""

import numpy as np

GRADIENTS = ([2, 2, 2], [2, 2, 2])
CASES = [{"rho": 0.3, "eta": 20.0}]


def ellipsoid(v, rho, eta):
    inverse = 1 / (1 + eta * v**2)
    return rho * inverse * v / (np.sqrt(v @ (inverse * v)) + 1e-12)


def trajectory(problem, base, steps, rho=0.1, eta=1.0):
    w = problem.start
    path = [w]
    for t in range(steps):
        g = problem.gradient(w, t, clean=True)
        w = base.step(w, problem.gradient(w + ellipsoid(g, rho, eta), t))
        path.append(w)
    return path

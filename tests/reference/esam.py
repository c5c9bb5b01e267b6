"""ESAM: Du et al. (2022): h = mean gradient over the floor(gamma b) samples of the largest l(w + eps) - l(w).

The set of perturbed tensors is drawn at random; `kept` gives it for every step, one flag a tensor.
"""

import numpy as np

GRADIENTS = ([1.5, 1.5, 1.5], [1.5, 1.5, 1.5])
CASES = [{"beta": 1.0, "gamma": 0.5}, {"rho": 0.5, "beta": 1.0, "gamma": 0.7}]


def losses(problem, w, t):
    seen = {}

    def look(z, y):
        seen.update(z=z, y=y)
        return np.zeros_like(z)

    problem.gradient(w, t, slope=look)
    z, y = seen["z"], seen["y"]
    if not problem.classifies:
        return 0.5 * ((z - y) ** 2).sum(1)
    top = z.max(1)
    return top + np.log(np.exp(z - top[:, None]).sum(1)) - z[np.arange(len(y)), y]


def trajectory(problem, base, steps, rho=0.05, beta=0.6, gamma=0.5, kept=None):
    w = problem.start
    path = [w]
    for t in range(steps):
        flags = [True] * (len(problem.ends) + 1) if kept is None else kept[t]
        inside = np.concatenate(
            [np.full(len(part), flag) for part, flag in zip(np.split(w, problem.ends), flags, strict=True)]
        )
        g = np.where(inside, problem.gradient(w, t, clean=True), 0.0)
        c = 1.0 if all(flags) else 1 / beta
        there = w + c * rho * g / (np.linalg.norm(g) + 1e-12)
        rise = losses(problem, there, t) - losses(problem, w, t)
        count = max(1, int(np.floor(gamma * len(rise))))
        rows = np.sort(np.argsort(-rise, kind="stable")[:count])
        w = base.step(w, problem.gradient(there, t, rows=rows))
        path.append(w)
    return path

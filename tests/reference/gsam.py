"""GSAM: Zhuang et al. (2022): u = h - alpha g_perp, g_perp = g - (g'h / ||h||^2) h.

rho_t = rho_min + (rho_max - rho_min) (lr_t - lr_min) / (lr_max - lr_min), kept within the two radii; where the
learning rate is constant, rho_t = rho_max. `lrs` is the learning rate of every step, `lr_min` and `lr_max` its range.
"""

import numpy as np

from .sam import ball

GRADIENTS = ([2, 2, 2], [2, 2, 2])
CASES = [{"rho_max": 0.3, "rho_min": 0.1}, {"alpha": 0.9}]


def radius(lr, lr_min, lr_max, rho_min, rho_max):
    if lr_max == lr_min:
        return rho_max
    return rho_min + (rho_max - rho_min) * np.clip((lr - lr_min) / (lr_max - lr_min), 0, 1)


def trajectory(problem, base, steps, rho_max=0.1, rho_min=0.1, alpha=0.4, lrs=None, lr_min=None, lr_max=None):
    lrs = [base.lr] * steps if lrs is None else lrs
    lr_min = min(lrs) if lr_min is None else lr_min
    lr_max = max(lrs) if lr_max is None else lr_max
    w = problem.start
    path = [w]
    for t in range(steps):
        base.lr = lrs[t]
        g = problem.gradient(w, t, clean=True)
        h = problem.gradient(w + ball(w, g, radius(lrs[t], lr_min, lr_max, rho_min, rho_max)), t)
        w = base.step(w, h - alpha * (g - (g @ h) / (h @ h) * h))
        path.append(w)
    return path

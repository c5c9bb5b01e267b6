"""AE-SAM: Jiang et al. (2023), Algorithm 1, of T steps in all.

n_t = ||g_t||^2, mu_t = delta mu_{t-1} + (1 - delta) n_t, var_t = delta var_{t-1} + (1 - delta) (n_t - mu_t)^2,
c_t = (t/T) lam1 + (1 - t/T) lam2; the step is SAM's iff n_t >= mu_t + c_t sqrt(var_t), else u = g.
"""

import numpy as np

from .sam import ball


class Score:
    """The decision of step t = 0, 1, ..., after both averages have taken in n_t."""

    def __init__(self, total, lam1, lam2, delta):
        self.total, self.lam1, self.lam2, self.delta = total, lam1, lam2, delta
        self.t, self.mean, self.variance = 0, 0.0, np.exp(-10)

    def __call__(self, g):
        n = np.sum(g**2)
        self.mean = self.delta * self.mean + (1 - self.delta) * n
        self.variance = self.delta * self.variance + (1 - self.delta) * (n - self.mean) ** 2
        c = self.t / self.total * self.lam1 + (1 - self.t / self.total) * self.lam2
        self.t += 1
        return n >= self.mean + c * np.sqrt(self.variance)


CASES = [
    {"lam1": 0.0, "lam2": 2.0},
    {"rho": 0.3, "lam1": -2.0, "lam2": 3.162},
    {"rho": 0.3, "lam1": 0.5, "lam2": 0.5, "delta": 0.6},
]


def trajectory(problem, base, steps, rho=0.1, lam1=-1.0, lam2=1.0, delta=0.9, combine=lambda g, h: h, decisions=None):
    sharp = Score(steps, lam1, lam2, delta)
    w = problem.start
    path = [w]
    for t in range(steps):
        u = g = problem.gradient(w, t, clean=True)
        decision = sharp(g)
        if decision:
            u = combine(g, problem.gradient(w + ball(w, g, rho), t))
        if decisions is not None:
            decisions.append(bool(decision))
        w = base.step(w, u)
        path.append(w)
    return path

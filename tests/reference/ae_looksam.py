"""AE-LookSAM: Jiang et al. (2023), Algorithm 1: AE-SAM decides, and its other steps are LookSAM's reuse of g_v.

Before the first SAM step there is no g_v, and u = g.
"""

from .ae_sam import Score
from .looksam import direction, reuse
from .sam import ball

CASES = [{}, {"rho": 0.3, "lam1": 1.0, "lam2": 0.5, "alpha": 0.3}]


def trajectory(problem, base, steps, rho=0.1, lam1=0.0, lam2=2.0, alpha=0.7, delta=0.9):
    sharp = Score(steps, lam1, lam2, delta)
    w, gv = problem.start, None
    path = [w]
    for t in range(steps):
        g = problem.gradient(w, t, clean=True)
        if sharp(g):
            u = problem.gradient(w + ball(w, g, rho), t)
            gv = direction(g, u)
        else:
            u = g if gv is None else reuse(g, gv, alpha)
        w = base.step(w, u)
        path.append(w)
    return path

"""SS-SAM: Zhao et al. (2022): X_t = 1: a SAM step; X_t = 0: u = g. The sequence of X_t is given."""

from .sam import ball

CASES = []


def trajectory(problem, base, steps, decisions, rho=0.05):
    w = problem.start
    path = [w]
    for t in range(steps):
        u = g = problem.gradient(w, t, clean=True)
        if decisions[t]:
            u = problem.gradient(w + ball(w, g, rho), t)
        w = base.step(w, u)
        path.append(w)
    return path

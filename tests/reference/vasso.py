"""VaSSO: Li & Giannakis (2023): d_t = (1 - theta) d_{t-1} + theta g_t, d_0 = g_0; eps = rho d / ||d||; u = h."""

from .sam import ball

GRADIENTS = ([2, 2, 2], [2, 2, 2])
CASES = [{"theta": 0.6}, {"rho": 0.3, "theta": 0.2}]


def average(d, g, theta):
    """Theta weights the new gradient, and the first one starts the average."""
    return g if d is None else (1 - theta) * d + theta * g


def trajectory(problem, base, steps, rho=0.2, theta=0.9):
    w, d = problem.start, None
    path = [w]
    for t in range(steps):
        d = average(d, problem.gradient(w, t, clean=True), theta)
        w = base.step(w, problem.gradient(w + ball(w, d, rho), t))
        path.append(w)
    return path

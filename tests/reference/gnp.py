"""GNP: Zhao et al. (2022): u = (1 - alpha) g + alpha h; the "unit" reference puts g / ||g|| for g."""

from .sam import ball

GRADIENTS = ([2, 2, 2], [2, 2, 2])
CASES = [{"alpha": 0.4}, {"rho": 0.3, "reference": "unit"}]


def blend(g, h, alpha, reference="raw"):
    return (1 - alpha) * {"raw": g, "unit": ball(None, g, 1.0)}[reference] + alpha * h


def trajectory(problem, base, steps, rho=0.1, alpha=0.8, reference="raw"):
    w = problem.start
    path = [w]
    for t in range(steps):
        g = problem.gradient(w, t, clean=True)
        h = problem.gradient(w + ball(w, g, rho), t)
        w = base.step(w, blend(g, h, alpha, reference))
        path.append(w)
    return path

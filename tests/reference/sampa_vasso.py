"""The union: SAMPa whose eps is built from the average d of the q, d_1 = q_1; the y-step is along the raw q."""

from . import sampa
from .sam import ball
from .vasso import average

RECIPE = "sampa+vasso"
CASES = [{"rho": 0.3, "lam": 0.2, "theta": 0.6}]


def trajectory(problem, base, steps, rho=0.1, lam=0.2, y_step="peek", theta=0.9):
    d = None

    def perturbation(w, q):
        nonlocal d
        d = average(d, q, theta)
        return ball(w, d, rho)

    return sampa.trajectory(problem, base, steps, lam=lam, y_step=y_step, perturbation=perturbation)

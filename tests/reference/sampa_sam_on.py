"""The union: SAMPa whose eps is rho q_P / ||q_P|| on P alone; the y-step is along the raw q of all tensors."""

from . import sampa
from .sam import ball
from .sam_on import inside

RECIPE = "sampa+sam-on"
CASES = [{"rho": 0.3, "lam": 0.2}]
PROBLEMS = ("batch-norm", "layer-norm")  # norm layers


def trajectory(problem, base, steps, rho=0.5, lam=0.2, y_step="peek", norm="only"):
    return sampa.trajectory(
        problem,
        base,
        steps,
        lam=lam,
        y_step=y_step,
        perturbation=lambda w, q: ball(w, inside(problem, q, norm), rho),
    )

"""The union: SAMPa whose perturbation is ASAM's, with T at the current w and the y-step along the raw q."""

from . import sampa
from .asam import ellipsoid

RECIPE = "sampa+asam"
CASES = [{"rho": 0.3, "lam": 0.2}, {"scope": "all", "y_step": "plain"}]


def trajectory(problem, base, steps, rho=0.5, lam=0.2, y_step="peek", eta=0.01, scope="weights"):
    return sampa.trajectory(
        problem,
        base,
        steps,
        lam=lam,
        y_step=y_step,
        perturbation=lambda w, v: ellipsoid(w, v, rho, eta, scope, problem.is_weight),
    )

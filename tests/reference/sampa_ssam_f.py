"""The union: SAMPa whose eps, built from q, is masked; the y-step is along the raw q.

The mask of an epoch is made at w before its first step, on that step's batch, so also before the first, which does not
perturb.
"""

from . import sampa
from .ssam_f import fisher_mask, refreshed, sparse

RECIPE = "sampa+ssam-f"
CASES = [{"rho": 0.3, "lam": 0.2}, {"rho": 0.3, "lam": 0.5, "sparsity": 0.8, "structure": "filter", "tm": 2, "nf": 3}]


def trajectory(problem, base, steps, rho=0.1, lam=0.2, y_step="peek", tm=1, structure="element", **settings):
    t, m = 0, fisher_mask(problem, problem.start, 0, structure=structure, **settings)

    def perturbation(w, q):
        nonlocal t, m
        t += 1
        if refreshed(t, tm):
            m = fisher_mask(problem, w, t, structure=structure, **settings)
        return sparse(q, m, rho, structure)

    return sampa.trajectory(problem, base, steps, lam=lam, y_step=y_step, perturbation=perturbation)

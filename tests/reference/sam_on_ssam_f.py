"""The union: SSAM-F among the entries that SAM-ON leaves, which also count its k, and whose norm is taken."""

from . import ssam_f

RECIPE = "sam-on+ssam-f"
CASES = [
    {"rho": 0.3},
    {"rho": 0.3, "sparsity": 0.9, "norm": "except", "tm": 2},
    {"rho": 0.3, "structure": "filter"},
    {"rho": 0.3, "sparsity": 0.6, "structure": "filter", "norm": "except"},
]
PROBLEMS = ("batch-norm", "layer-norm")  # norm layers


def trajectory(problem, base, steps, rho=0.5, norm="only", **settings):
    inside = {"only": problem.is_norm, "except": ~problem.is_norm}[norm]
    return ssam_f.trajectory(problem, base, steps, rho=rho, inside=inside, **settings)

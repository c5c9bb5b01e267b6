"""The union: AE-SAM decides, and its SAM steps hand GNP's (1 - alpha) g + alpha h to the base."""

from . import ae_sam
from .gnp import blend

RECIPE = "ae-sam+gnp"
CASES = [{"rho": 0.3, "lam1": 0.0, "lam2": 2.0, "alpha": 0.4}]


def trajectory(problem, base, steps, rho=0.1, lam1=-1.0, lam2=1.0, delta=0.9, alpha=0.8, reference="raw"):
    return ae_sam.trajectory(
        problem,
        base,
        steps,
        rho=rho,
        lam1=lam1,
        lam2=lam2,
        delta=delta,
        combine=lambda g, h: blend(g, h, alpha, reference),
    )

"""The union: SAM on the loss of SAF, which both gradients are of; the outputs of the clean pass are recorded."""

from .saf import Record
from .sam import ball

RECIPE = "sam+saf"
CASES = [{"rho": 0.3, "lag": 1, "start": 0}, {"rho": 0.3, "lag": 2, "start": 0, "lam": 2.0, "tau": 1.5}]
PROBLEMS = ("mlp", "batch-norm", "layer-norm")  # softmax needs classes


def trajectory(problem, base, steps, rho=0.05, **settings):
    record = Record(problem, **settings)
    w = problem.start
    path = [w]
    for t in range(steps):
        g = problem.gradient(w, t, clean=True, slope=record.slope(t, clean=True))
        w = base.step(w, problem.gradient(w + ball(w, g, rho), t, slope=record.slope(t)))
        path.append(w)
    return path

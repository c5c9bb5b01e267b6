"""The union: SAMPa on the loss of MESA, which is one function a batch: what taught q teaches h in the step after.

So that h is the perturbed gradient of the function that q is the gradient of. Both recipes have a `lam`.
"""

from .mesa import Average
from .sam import ball

RECIPE = "sampa+mesa"
CASES = [
    {"rho": 0.3, "start": 0, "decay": 0.5, "sampa.lam": 0.2, "mesa.lam": 1.0},
    {"rho": 0.3, "start": 1, "decay": 0.9, "sampa.lam": 0.6, "mesa.lam": 2.0, "tau": 1.5},
]
PROBLEMS = ("mlp", "batch-norm", "layer-norm")  # softmax needs classes


def trajectory(problem, base, steps, rho=0.1, tau=5.0, decay=0.9998, start=5, **lam):
    own, average = lam["sampa.lam"], Average(problem, lam["mesa.lam"], tau, decay, start)
    w = problem.start
    taught = average.slope(0, 0)
    q = problem.gradient(w, 0, clean=True, slope=taught)
    path = [w, base.step(w, q)]
    average.update(path[-1])
    for t in range(1, steps):
        w = path[-1]
        h = problem.gradient(w + ball(w, q, rho), t - 1, slope=taught)
        taught = average.slope(t, t)
        q = problem.gradient(base.peek(w, q), t, clean=True, slope=taught)
        path.append(base.step(w, (1 - own) * h + own * q))
        average.update(path[-1])
    return path

"""SAMPa with mSAM: shard i climbs its own q_i; y is stepped along the mean of q; u = (1 - lam) mean h_i + lam mean q_i.

Means weigh every shard with its part of the batch that it is of, so h_i with that of the batch before.
"""

import numpy as np

from .sam import ball

RECIPE = "sampa+msam"
CASES = [{"rho": 0.3, "lam": 0.2, "m": 3}, {"rho": 0.3, "lam": 0.5, "m": 2}]
PROBLEMS = ("quadratic", "mlp", "layer-norm")  # batch norm refuses a shard of one sample


def trajectory(problem, base, steps, rho=0.1, lam=0.2, y_step="peek", m=4):
    def gradients(w, t, clean=False):
        return [problem.gradient(w, t, clean=clean, rows=rows) for rows in problem.shards(t, m)]

    def mean(vectors, t):
        sizes = [rows.stop - rows.start for rows in problem.shards(t, m)]
        return np.average(vectors, axis=0, weights=sizes)

    w = problem.start
    q = gradients(w, 0, clean=True)
    path = [w, base.step(w, mean(q, 0))]
    for t in range(1, steps):
        w = path[-1]
        shards = zip(q, problem.shards(t - 1, m), strict=True)
        h = [problem.gradient(w + ball(w, v, rho), t - 1, rows=rows) for v, rows in shards]
        before = mean(q, t - 1)
        y = base.peek(w, before) if y_step == "peek" else w - base.lr * before
        q = gradients(y, t, clean=True)
        path.append(base.step(w, (1 - lam) * mean(h, t - 1) + lam * mean(q, t)))
    return path

"""The union: AE-SAM decides once a step by g = sum_i (|S_i| / b) g_i, and its SAM steps are mSAM's."""

from .ae_sam import Score
from .sam import ball

RECIPE = "ae-sam+msam"
CASES = [{"rho": 0.3, "lam1": 0.0, "lam2": 2.0, "m": 3}, {"rho": 0.3, "lam1": 1.0, "lam2": 0.5, "m": 2}]
PROBLEMS = ("quadratic", "mlp", "layer-norm")  # batch norm refuses a shard of one sample


def trajectory(problem, base, steps, rho=0.05, lam1=-1.0, lam2=1.0, delta=0.9, m=4, decisions=None):
    sharp = Score(steps, lam1, lam2, delta)
    w = problem.start
    path = [w]
    for t in range(steps):
        shards = problem.shards(t, m)
        share = [(rows.stop - rows.start) / problem.size(t) for rows in shards]
        g = [problem.gradient(w, t, clean=True, rows=rows) for rows in shards]
        u = sum(s * v for s, v in zip(share, g, strict=True))
        decision = sharp(u)
        if decision:
            h = [problem.gradient(w + ball(w, v, rho), t, rows=rows) for v, rows in zip(g, shards, strict=True)]
            u = sum(s * v for s, v in zip(share, h, strict=True))
        if decisions is not None:
            decisions.append(bool(decision))
        w = base.step(w, u)
        path.append(w)
    return path

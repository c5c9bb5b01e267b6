"""The union: shard i climbs d_i = (1 - theta) d_{t-1} + theta g_i, at first g_i; d_t = sum_i (|S_i| / b) d_i."""

from .sam import ball
from .vasso import average

RECIPE = "msam+vasso"
CASES = [{"rho": 0.3, "theta": 0.6, "m": 3}, {"rho": 0.3, "theta": 0.2, "m": 2}]
PROBLEMS = ("quadratic", "mlp", "layer-norm")  # batch norm refuses a shard of one sample


def trajectory(problem, base, steps, rho=0.1, theta=0.9, m=4):
    w, d = problem.start, None
    path = [w]
    for t in range(steps):
        u, mean = 0, 0
        for rows in problem.shards(t, m):
            share = (rows.stop - rows.start) / problem.size(t)
            climbed = average(d, problem.gradient(w, t, clean=True, rows=rows), theta)
            mean = mean + share * climbed
            u = u + share * problem.gradient(w + ball(w, climbed, rho), t, rows=rows)
        d = mean
        w = base.step(w, u)
        path.append(w)
    return path

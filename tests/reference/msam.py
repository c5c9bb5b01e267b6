"""mSAM, m-sharpness of Foret et al. (2021): u = sum_i (|S_i| / b) grad L(S_i; w + eps_i), eps_i = rho g_i / ||g_i||.

The S_i are m contiguous shards of the batch, and g_i = grad L(S_i; w) is its own shard's gradient.
"""

from .sam import ball

GRADIENTS = ([2, 2, 2], [2, 2, 2])
CASES = [{"rho": 0.2}, {"rho": 0.2, "m": 2}]
PROBLEMS = ("quadratic", "mlp", "layer-norm")  # batch norm refuses a shard of one sample


def trajectory(problem, base, steps, rho=0.05, m=4):
    w = problem.start
    path = [w]
    for t in range(steps):
        u = 0
        for rows in problem.shards(t, m):
            g = problem.gradient(w, t, clean=True, rows=rows)
            h = problem.gradient(w + ball(w, g, rho), t, rows=rows)
            u = u + (rows.stop - rows.start) / problem.size(t) * h
        w = base.step(w, u)
        path.append(w)
    return path

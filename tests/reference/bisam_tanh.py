"""BiSAM: Xie et al. (2024): eps = rho grad Q / ||grad Q||, u = h of the task loss at w + eps.

Q = mean_i (1/mu) log sum_j exp(mu phi(F_ij)), F_ij = z_ij - z_iy, and phi(x) = tanh(alpha x) here. By the logits,
dQ_i/dz_ij = p_ij phi'(F_ij) for j other than y, with p_i = softmax(mu phi(F_i)); the slope at y makes the sum zero.
"""

import numpy as np

from .sam import ball

GRADIENTS = ([2, 2, 2], [2, 2, 2])
CASES = [{"rho": 0.3}, {"rho": 0.3, "mu": 3.0, "alpha": 0.7}]
PROBLEMS = ("mlp", "batch-norm", "layer-norm")  # margins need classes


def margin_slope(phi, derivative, mu):
    def slope(z, y):
        rows = np.arange(len(y))
        f = z - z[rows, y][:, None]
        e = mu * phi(f)
        p = np.exp(e - e.max(1, keepdims=True))
        dz = p / p.sum(1, keepdims=True) * derivative(f)
        dz[rows, y] = 0
        dz[rows, y] = -dz.sum(1)
        return dz

    return slope


def tanh_slope(mu, alpha):
    return margin_slope(lambda x: np.tanh(alpha * x), lambda x: alpha * (1 - np.tanh(alpha * x) ** 2), mu)


def ascend(problem, base, steps, rho, slope):
    w = problem.start
    path = [w]
    for t in range(steps):
        v = problem.gradient(w, t, clean=True, slope=slope)
        w = base.step(w, problem.gradient(w + ball(w, v, rho), t))
        path.append(w)
    return path


def trajectory(problem, base, steps, rho=0.05, mu=10.0, alpha=0.1):
    return ascend(problem, base, steps, rho, tanh_slope(mu, alpha))

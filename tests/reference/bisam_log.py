"""BiSAM: Xie et al. (2024), with phi(x) = 1 - log(1 + exp(gamma - x)), gamma = log(e - 1), so phi(0) = 0."""

import numpy as np

from .bisam_tanh import ascend, margin_slope

GAMMA = np.log(np.e - 1)

GRADIENTS = ([2, 2, 2], [2, 2, 2])
CASES = [{"rho": 0.3}, {"rho": 0.3, "mu": 4.0}]
PROBLEMS = ("mlp", "batch-norm", "layer-norm")  # margins need classes


def log_slope(mu):
    return margin_slope(lambda x: 1 - np.logaddexp(0, GAMMA - x), lambda x: 1 / (1 + np.exp(x - GAMMA)), mu)


def trajectory(problem, base, steps, rho=0.05, mu=1.0):
    return ascend(problem, base, steps, rho, log_slope(mu))

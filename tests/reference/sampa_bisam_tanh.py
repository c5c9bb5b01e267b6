"""The union: SAMPa whose eps is rho grad Q / ||grad Q|| at y_t on B_{t-1}; the y-step is along the task's gradient."""

from . import sampa
from .bisam_tanh import tanh_slope

RECIPE = "sampa+bisam-tanh"
CASES = [{"rho": 0.3, "lam": 0.2}]
PROBLEMS = ("mlp", "batch-norm", "layer-norm")  # margins need classes


def trajectory(problem, base, steps, rho=0.05, lam=0.2, y_step="peek", mu=10.0, alpha=0.1):
    slope = tanh_slope(mu, alpha)
    # One forward serves both gradients: the buffers advance in sampa's pass, not in this one.
    return sampa.trajectory(
        problem, base, steps, rho=rho, lam=lam, y_step=y_step, ascent=lambda y, t: problem.gradient(y, t, slope=slope)
    )

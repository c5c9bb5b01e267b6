"""SAMPa: Xie et al. (2024), Algorithm 1, in the stochastic form.

w_1 = Base(w_0, q_1) with q_1 = grad f(w_0; B_0), then from t = 1 on
h_t = grad f(w_t + eps(q_t); B_{t-1}),  q_{t+1} = grad f(y_{t+1}; B_t),  y_{t+1} = w_t stepped along q_t,
w_{t+1} = Base(w_t, (1 - lam) h_t + lam q_{t+1}).

A union may build eps from another vector that is taken where q is, at y_{t+1} on B_t: `ascent(y, t)`.
"""

from .sam import ball

GRADIENTS = ([1, 2, 2], [1, 1, 1])
CASES = [{"rho": 0.1, "lam": lam, "y_step": y} for lam in (0.0, 0.2, 1.0) for y in ("peek", "plain")]


def trajectory(problem, base, steps, rho=0.1, lam=0.2, y_step="peek", perturbation=None, ascent=None):
    eps = perturbation or (lambda w, v: ball(w, v, rho))
    w = problem.start
    q = problem.gradient(w, 0, clean=True)
    v = ascent(w, 0) if ascent else q
    path = [w, base.step(w, q)]
    for t in range(1, steps):
        w = path[-1]
        h = problem.gradient(w + eps(w, v), t - 1)
        y = base.peek(w, q) if y_step == "peek" else w - base.lr * q
        q = problem.gradient(y, t, clean=True)
        v = ascent(y, t) if ascent else q
        path.append(base.step(w, (1 - lam) * h + lam * q))
    return path

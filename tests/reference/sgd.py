"""Empirical risk minimisation: u_t = grad L(B_t; w_t)."""

GRADIENTS = ([1, 1, 1], [1, 1, 1])
CASES = [{}]


def trajectory(problem, base, steps):
    w = problem.start
    path = [w]
    for t in range(steps):
        w = base.step(w, problem.gradient(w, t, clean=True))
        path.append(w)
    return path

"""MESA: Du et al. (2022): u = grad of mean_i (l_i + lam tau^2 KL(softmax(z_i' / tau) || softmax(z_i / tau))).

z' is what the average of the weights gives for the same batch, in evaluation mode: it starts as w_0 with its buffers,
and after every step it is decay times itself plus (1 - decay) times what there is now. Nothing is added up to epoch
`start`.
"""

from .problems import EPOCH
from .saf import pull

GRADIENTS = ([1, 1, 1], [1, 1, 1])
CASES = [{"start": 0}, {"start": 0, "decay": 0.5, "lam": 1.0}, {"start": 1, "decay": 0.9, "lam": 2.0, "tau": 1.5}]
PROBLEMS = ("mlp", "batch-norm", "layer-norm")  # softmax needs classes


class Average:
    """The averaged model, and the slope of the loss that it teaches with."""

    def __init__(self, problem, lam=0.3, tau=5.0, decay=0.9998, start=5):
        self.problem, self.lam, self.tau, self.decay, self.start = problem, lam, tau, decay, start
        self.w = problem.start
        self.buffers = {name: b.clone() for name, b in problem.buffers.items()}

    def update(self, w):
        self.w = self.decay * self.w + (1 - self.decay) * w
        for name, b in self.problem.buffers.items():
            averaged = self.decay * self.buffers[name] + (1 - self.decay) * b
            self.buffers[name] = averaged if b.is_floating_point() else b.clone()

    def slope(self, step, t):
        """On batch t, as far as the average and the epoch have come before a step."""
        if step // EPOCH <= self.start:
            return self.problem.slope
        target = self.problem.outputs(self.w, t, self.buffers)
        return lambda z, y: self.problem.slope(z, y) + self.lam * pull(z, target, self.tau)


def trajectory(problem, base, steps, **settings):
    average = Average(problem, **settings)
    w = problem.start
    path = [w]
    for t in range(steps):
        w = base.step(w, problem.gradient(w, t, clean=True, slope=average.slope(t, t)))
        average.update(w)
        path.append(w)
    return path

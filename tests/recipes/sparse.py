"""What the tests of sparse masks look at."""

import torch
from torch import nn

from tests.core.support import drawn, gradient, numbered, sharp, trail
from tests.reference.problems import flat


def joined(tensors):
    return torch.cat([t.detach().flatten() for t in tensors]).numpy()


def shapes(model):
    return {name: p.shape for name, p in model.named_parameters()}


def steps(rule, model, count, **options):
    """The clean gradient, the mask and the perturbation of every step, each as one vector."""
    opt = sharp(rule, model, **options)
    seen = trail(model)
    for t in range(count):
        x, y, numbers = numbered(seed=t)
        g, before = joined(gradient(model, x, y)), flat(model)
        seen.clear()
        opt.step((x, y, numbers))
        yield g, drawn(opt, model), joined(seen[-1]) - before


class Vector(nn.Module):
    """A model of d parameters in one vector, whose gradient is the inputs' mean."""

    def __init__(self, d, dtype=torch.float64):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(d, dtype=dtype))

    def forward(self, x):
        return x * self.weight


def total(outputs, targets, reduction):
    return outputs.sum(1)

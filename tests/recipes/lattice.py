"""Short runs of two recipes, and the vectors of their first steps, for the tests of identities."""

from functools import cache

import torch

from tests.core.support import batch, bits, net, sharp, trail, weights

BASES = {
    "momentum": lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9, weight_decay=1e-3),
    "adamw": lambda ps: torch.optim.AdamW(ps, lr=0.01),
}
KINDS = ["mlp", "batch-norm", "dropout"]

NORMED = ["batch-norm", "dropout"]
COST = ("gradients", "sequential", "critical", "forward_samples", "backward_samples", "perturbed")


def finish(rule, kind, base="momentum", steps=5, dtype=torch.float32, sizes=(8, 7, 6, 5, 4), order=None, **options):
    """The model after some steps, and what they cost."""
    model = net(kind, dtype=dtype)
    opt = sharp(rule, model, BASES[base](model.parameters()), **options)
    torch.manual_seed(1)
    for t in range(steps):
        which = t if order is None else order[t]
        opt.step(batch(sizes[which % len(sizes)], seed=which, dtype=dtype))
    counted = opt.counters()
    return model, {key: counted[key] for key in COST}


@cache
def end(rule, kind, base="momentum", order=None):
    """The state that a recipe string ends in, as bytes, and its cost."""
    model, cost = finish(rule, kind, base, order=order)
    return bits(model.state_dict()), cost


def assert_close(one, other, atol=1e-12):
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=atol)


def update(rule, kind="batch-norm", dtype=torch.float64):
    """The vector that the base optimizer gets on the first step."""
    model = net(kind, dtype=dtype)
    before = weights(model)
    sharp(rule, model, torch.optim.SGD(model.parameters(), lr=1.0)).step(batch(dtype=dtype))
    return [a - b for a, b in zip(before, weights(model), strict=True)]


def mix(*terms):
    return [
        sum(c * t for c, t in zip([c for c, _ in terms], parts, strict=True))
        for parts in zip(*(v for _, v in terms), strict=True)
    ]


def inner(a, b):
    return float(sum((s * t).sum() for s, t in zip(a, b, strict=True)))


def perturbation(rule, kind="batch-norm", model=None, data=None):
    """What the model sees added to its weights on the first step."""
    model = model or net(kind)
    seen = trail(model)
    torch.manual_seed(2)
    sharp(rule, model).step(data or batch())
    return [b - a for a, b in zip(seen[0], seen[1], strict=True)]

"""Every recipe takes the steps of its published equations, with every kind of base optimizer."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from sharpkit import SharpnessAware
from tests.reference import base as numpy_base
from tests.reference import reference
from tests.reference.problems import PROBLEMS, flat

STEPS = 10

RULES = {
    "sgd": ("sgd", {}),
    "sam:rho=0.05": ("sam", {"rho": 0.05}),
    "asam:rho=0.3": ("asam", {"rho": 0.3}),
    "asam:rho=0.3:eta=0:scope=all": ("asam", {"rho": 0.3, "eta": 0.0, "scope": "all"}),
    **{
        f"sampa:rho=0.1:lam={lam}:y_step={y}": ("sampa", {"rho": 0.1, "lam": lam, "y_step": y})
        for lam in (0, 0.2, 1)
        for y in ("peek", "plain")
    },
    "sampa+asam:rho=0.3:lam=0.2": ("sampa-asam", {"rho": 0.3, "lam": 0.2}),
    "asam+sampa:scope=all:y_step=plain": ("sampa-asam", {"scope": "all", "y_step": "plain"}),
}

MOMENTUM = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3}
BASES = {
    "sgd": (torch.optim.SGD, numpy_base.SGD, {"lr": 0.1}, {}),
    "momentum": (torch.optim.SGD, numpy_base.SGD, MOMENTUM, {}),
    "nesterov": (torch.optim.SGD, numpy_base.SGD, {**MOMENTUM, "nesterov": True}, {}),
    "adamw": (torch.optim.AdamW, numpy_base.Adam, {"lr": 0.01, "weight_decay": 0.1}, {"decoupled": True}),
    "adam": (torch.optim.Adam, numpy_base.Adam, {"lr": 0.01, "weight_decay": 0.1, "betas": (0.8, 0.95)}, {}),
}


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("text", RULES)
def test_iterates_agree_with_the_reference(text, base, problem):
    name, hyperparameters = RULES[text]
    torch_base, own_base, settings, own_settings = BASES[base]
    problem = PROBLEMS[problem]()
    expected = reference(name).trajectory(problem, own_base(**settings, **own_settings), STEPS, **hyperparameters)

    model = problem.model
    opt = SharpnessAware(model, torch_base(model.parameters(), **settings), text, loss=problem.loss)
    path = [flat(model)]
    for t in range(STEPS):
        opt.step(problem.batch(t))
        path.append(flat(model))

    np.testing.assert_allclose(path, expected, rtol=0, atol=1e-10)
    for key, buffer in model.named_buffers():
        torch.testing.assert_close(buffer, problem.buffers[key], rtol=0, atol=1e-10)


def test_the_reference_problems_move_and_differ():
    """A reference that stood still, or ignored its hyperparameters, would agree with anything."""
    ends = []
    for name, hyperparameters in RULES.values():
        problem = PROBLEMS["mlp"]()
        path = reference(name).trajectory(problem, numpy_base.SGD(**MOMENTUM), STEPS, **hyperparameters)
        assert len(path) == STEPS + 1
        assert all(np.abs(b - a).max() > 1e-4 for a, b in pairwise(path))
        ends.append(path[-1])
    apart = [np.abs(a - b).max() for i, a in enumerate(ends) for b in ends[:i]]
    assert min(apart) > 1e-6

"""Every recipe takes the steps of its published equations, with every kind of base optimizer."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from sharpkit import RECIPES, SharpnessAware
from tests.reference import base as numpy_base
from tests.reference import reference, unions
from tests.reference.problems import PROBLEMS, flat

STEPS = 10

MODULES = {**{name: reference(name) for name in RECIPES}, **unions()}


def text(name, case):
    return ":".join([name, *(f"{key}={value}" for key, value in case.items())])


RULES = {text(name, case): (module, case) for name, module in MODULES.items() for case in module.CASES}

MOMENTUM = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3}
BASES = {
    "sgd": (torch.optim.SGD, numpy_base.SGD, {"lr": 0.1}, {}),
    "momentum": (torch.optim.SGD, numpy_base.SGD, MOMENTUM, {}),
    "nesterov": (torch.optim.SGD, numpy_base.SGD, {**MOMENTUM, "nesterov": True}, {}),
    "adamw": (torch.optim.AdamW, numpy_base.Adam, {"lr": 0.01, "weight_decay": 0.1}, {"decoupled": True}),
    "adam": (torch.optim.Adam, numpy_base.Adam, {"lr": 0.01, "weight_decay": 0.1, "betas": (0.8, 0.95)}, {}),
}


def acts_on(module, problem):
    return problem in getattr(module, "PROBLEMS", PROBLEMS)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(
    ("rule", "problem"), [(rule, p) for rule, (module, _) in RULES.items() for p in PROBLEMS if acts_on(module, p)]
)
def test_iterates_agree_with_the_reference(rule, base, problem):
    module, hyperparameters = RULES[rule]
    torch_base, own_base, settings, own_settings = BASES[base]
    problem = PROBLEMS[problem]()
    expected = module.trajectory(problem, own_base(**settings, **own_settings), STEPS, **hyperparameters)

    model = problem.model
    opt = SharpnessAware(model, torch_base(model.parameters(), **settings), rule, loss=problem.loss, total_steps=STEPS)
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
    for module, hyperparameters in RULES.values():
        problem = PROBLEMS["layer-norm"]()
        path = module.trajectory(problem, numpy_base.SGD(**MOMENTUM), STEPS, **hyperparameters)
        assert len(path) == STEPS + 1
        assert all(np.abs(b - a).max() > 1e-4 for a, b in pairwise(path))
        ends.append(path[-1])
    apart = [np.abs(a - b).max() for i, a in enumerate(ends) for b in ends[:i]]
    assert min(apart) > 1e-6

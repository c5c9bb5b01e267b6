"""Every recipe takes the steps of its published equations, with every kind of base optimizer."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from sharpkit import RECIPES, SharpnessAware
from tests.core.support import LENGTHS, drawn
from tests.reference import base as numpy_base
from tests.reference import reference, unions
from tests.reference.problems import PROBLEMS, flat

STEPS = 10

MODULES = {**{name: reference(name) for name in RECIPES}, **unions()}


def text(name, case):
    return ":".join([name, *(f"{key}={value}" for key, value in case.items())])


def cases(kind):
    return {text(name, case): (module, case) for name, module in MODULES.items() for case in getattr(module, kind, [])}


RULES, MASKED = cases("CASES"), cases("MASKED")

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


def everywhere(rules):
    """Every rule with every problem that it can act on."""
    return [(rule, p) for rule, (module, _) in rules.items() for p in PROBLEMS if acts_on(module, p)]


def taken(rule, base, problem, look=lambda opt: None):
    """The recipe's iterates, and what `look` saw after every step."""
    torch_base, _, settings, _ = BASES[base]
    model = problem.model
    lengths = {**LENGTHS, "total_steps": STEPS}
    opt = SharpnessAware(model, torch_base(model.parameters(), **settings), rule, loss=problem.loss, **lengths)
    path, seen = [flat(model)], []
    for t in range(STEPS):
        opt.step(problem.batch(t))
        path.append(flat(model))
        seen.append(look(opt))
    return path, seen


def assert_agree(path, expected, problem):
    np.testing.assert_allclose(path, expected, rtol=0, atol=1e-10)
    for key, buffer in problem.model.named_buffers():
        torch.testing.assert_close(buffer, problem.buffers[key], rtol=0, atol=1e-10)


FIRST = {text(name, module.CASES[0]) for name, module in MODULES.items() if module.CASES}
FEW = ("momentum", "adamw")


@pytest.mark.parametrize(
    ("rule", "problem", "base"),
    [(*pair, base) for pair in everywhere(RULES) for base in BASES if pair[0] in FIRST or base in FEW],
)
def test_iterates_agree_with_the_reference(rule, problem, base):
    """With every base optimizer at each recipe's first hyperparameters, and with two of them at the others."""
    module, hyperparameters = RULES[rule]
    _, own_base, settings, own_settings = BASES[base]
    problem = PROBLEMS[problem]()
    expected = module.trajectory(problem, own_base(**settings, **own_settings), STEPS, **hyperparameters)
    assert_agree(taken(rule, base, problem)[0], expected, problem)


@pytest.mark.parametrize("base", FEW)
@pytest.mark.parametrize(("rule", "problem"), everywhere(MASKED))
def test_iterates_agree_with_the_reference_on_the_masks_that_were_drawn(rule, base, problem):
    module, hyperparameters = MASKED[rule]
    _, own_base, settings, own_settings = BASES[base]
    problem = PROBLEMS[problem]()
    path, masks = taken(rule, base, problem, lambda opt: drawn(opt, problem.model))
    base = own_base(**settings, **own_settings)
    assert_agree(path, module.trajectory(problem, base, STEPS, masks=masks, **hyperparameters), problem)


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

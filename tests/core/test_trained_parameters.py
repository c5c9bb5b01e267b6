"""What a rule remembers by parameter, where the parameters are others than before."""

from dataclasses import dataclass

import pytest
import torch

from sharpkit.core.rule import Rule
from sharpkit.core.slots import Filter
from sharpkit.core.trained_parameters import realigned
from tests.core.support import batch, net, sharp

A, B, C = torch.ones(2, 3), torch.ones(3), torch.ones(4)


def test_entries_follow_names_and_new_ones_begin_as_declared():
    memory = {"0/q": [A, B], "all/flags": [True, True], "all/other": [1.0, 2.0], "all/scalar": 3.0}
    new = {"flags": lambda _: False}
    found = realigned(memory, ["a", "b"], ["c", "b"], [C, B], new)
    assert torch.equal(found["0/q"][0], torch.zeros(4))
    assert found["0/q"][1] is B
    assert found["all/flags"] == [False, True]
    assert found["all/other"] == [1.0, 2.0]  # as many numbers as parameters, but nobody says that they are theirs
    assert found["all/scalar"] == 3.0


def test_a_list_that_is_declared_not_to_be_by_parameter_is_left_alone():
    memory = {"all/buffers": [A, B]}
    assert realigned(memory, ["a", "b"], ["b"], [B], {"buffers": None})["all/buffers"] == [A, B]


def test_a_list_of_tensors_of_other_shapes_is_left_alone():
    memory = {"all/table": [C, C]}
    assert realigned(memory, ["a", "b"], ["b"], [B], {})["all/table"] == [C, C]


@dataclass(frozen=True)
class Summed(Filter):
    """A rule of a user's own, which declares nothing."""

    def apply(self, step, direction):
        before = step.memory.get("own.sum") or [torch.zeros_like(t) for t in direction]
        total = [a + b for a, b in zip(before, direction, strict=True)]
        step.memory["own.sum"] = total
        return total


@pytest.mark.parametrize("flags", [(False, True), (True, False)])
def test_what_a_rule_of_ones_own_remembers_is_aligned_without_being_declared(flags):
    model = net()
    opt = sharp(Rule("own", filter=Summed()), model)
    opt.step(batch(seed=0))
    kept = dict(zip(opt.names, opt.state_dict()["memory"]["0/own.sum"], strict=True))
    model[0].requires_grad_(flags[0])
    model[2].requires_grad_(flags[1])
    x, y = batch(seed=1)
    loss = torch.nn.functional.cross_entropy(model(x), y)
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    grads = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])
    opt.step((x, y))
    found = opt.state_dict()["memory"]["0/own.sum"]
    assert opt.state_dict()["parameters"] == names
    for name, total, g in zip(names, found, grads, strict=True):
        torch.testing.assert_close(total, kept[name] + g, rtol=0, atol=1e-12)

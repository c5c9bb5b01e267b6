"""Gradients a step before any run, against what the methods say of themselves."""

import pytest
import torch

from sharpkit.engine.nominal import sequential_cost


@pytest.mark.parametrize(
    ("recipe", "cost"),
    [("sgd", 1), ("sampa", 1), ("looksam:k=5", 1.2)],
)
def test_the_cost_of_a_schedule(recipe, cost):
    assert sequential_cost(recipe) == pytest.approx(cost, abs=0.002)  # of 1000 steps the first may differ


@pytest.mark.slow
def test_a_coin_is_thrown_so_often_that_its_mean_is_known():
    assert sequential_cost("ss-sam:p=0.5") == pytest.approx(1.5, abs=0.05)


def test_nothing_is_drawn_from_the_streams_of_others():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    sequential_cost.__wrapped__("sgd")  # anew, though it may be known
    assert torch.equal(torch.rand(1), expected)

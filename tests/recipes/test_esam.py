"""ESAM's perturbation for every set of tensors that can be drawn, and its expectation over the draws."""

from itertools import combinations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.core.support import batch, net, sharp, trail, weights

BETA, RHO = 0.6, 0.3


def trained(tensors):
    """A network whose first tensors alone are trained, and their gradient by plain autograd."""
    model = net("mlp")
    for p in list(model.parameters())[tensors:]:
        p.requires_grad_(False)
    x, y = batch()
    return model, list(torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters())[:tensors]))


def by_set(tensors):
    """The perturbation by the set that was drawn, of as many seeds as it takes to have every set."""
    found = {}
    for seed in range(500):
        model, _ = trained(tensors)
        start, seen = weights(model), trail(model)
        sharp(f"esam:rho={RHO}:beta={BETA}:gamma=1", model, seed=seed).step(batch())
        epsilon = [there - w for there, w in zip(seen[1], start, strict=True)][:tensors]
        found[tuple(bool(e.any()) for e in epsilon)] = epsilon
        if len(found) == 2**tensors:
            return found
    raise AssertionError("not every set was drawn")


@pytest.mark.parametrize("tensors", [1, 2, 3])
def test_the_factor_is_one_over_beta_whichever_tensors_are_drawn(tensors):
    _, g = trained(tensors)
    for flags, epsilon in by_set(tensors).items():
        size = np.sqrt(sum(float(t.square().sum()) for t, flag in zip(g, flags, strict=True) if flag))
        for own, e, flag in zip(g, epsilon, flags, strict=True):
            expected = RHO / BETA / size * own if flag else torch.zeros_like(own)
            torch.testing.assert_close(e, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("tensors", [1, 2, 3])
def test_the_expectation_is_sams_for_one_tensor_and_larger_for_several(tensors):
    """E[eps_i] = rho g_i E[1 / ||g_S|| | i in S], summed over the sets of the others by their probability."""
    _, g = trained(tensors)
    squares = np.array([float(t.square().sum()) for t in g])
    found = by_set(tensors)
    for i, own in enumerate(g):
        mean = sum(
            BETA ** sum(flags) * (1 - BETA) ** (tensors - sum(flags)) * epsilon[i] for flags, epsilon in found.items()
        )
        others = [j for j in range(tensors) if j != i]
        inverse = sum(
            BETA ** len(some) * (1 - BETA) ** (len(others) - len(some)) / np.sqrt(squares[[i, *some]].sum())
            for count in range(tensors)
            for some in combinations(others, count)
        )
        torch.testing.assert_close(mean, RHO * inverse * own, rtol=0, atol=1e-10)
        of_sam = 1 / np.sqrt(squares.sum())
        if tensors == 1:
            assert inverse == pytest.approx(of_sam, rel=1e-12)
        else:
            assert inverse > 1.01 * of_sam

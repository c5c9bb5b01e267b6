"""E |g_B|^2, Var(g_B) and |G|^2 against plain loops, and unbiased estimates from a part of the data."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sharpkit.diagnostics.gradients.gradient_variance import gradient_variance
from sharpkit.errors import UsageError
from tests.diagnostics.support import net, samples


def gradients(model, batches):
    """The gradient of each batch as one row."""
    params = list(model.parameters())
    return np.stack([
        torch.cat([t.flatten() for t in torch.autograd.grad(F.cross_entropy(model(x), y), params)]).numpy()
        for x, y in batches
    ])  # fmt: skip


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_moments_are_those_of_a_plain_loop(kind):
    model, (x, y) = net(kind), samples(kind)
    batches = list(zip(x.split(5), y.split(5), strict=True))
    found = gradient_variance(model, F.cross_entropy, batches)
    g = gradients(model.train(), batches)
    assert found.norm == pytest.approx((g**2).sum(1).mean(), rel=1e-12)
    assert found.full == pytest.approx((g.mean(0) ** 2).sum(), rel=1e-12)
    assert found.variance == pytest.approx(((g - g.mean(0)) ** 2).sum(1).mean(), rel=1e-10)
    assert (found.batches, found.exact) == (4, True)


def test_the_full_gradient_weighs_every_sample_alike():
    model, (x, y) = net("mlp"), samples("mlp")
    found = gradient_variance(model, F.cross_entropy, list(zip(x.split(6), y.split(6), strict=True)))
    whole = gradients(model, [(x, y)])[0]
    assert found.full == pytest.approx((whole**2).sum(), rel=1e-12)
    assert found.batches == 3


def test_estimates_from_a_part_of_the_batches_are_unbiased():
    model, (x, y) = net("mlp"), samples("mlp")
    batches = list(zip(x.split(4), y.split(4), strict=True))
    g = gradients(model, batches)
    # Over all pairs of different batches the estimates average to those of the finite population.
    pairs = [gradient_variance(model, F.cross_entropy, p, exact=False) for p in itertools.combinations(batches, 2)]
    assert np.mean([p.variance for p in pairs]) == pytest.approx(g.var(0, ddof=1).sum(), rel=1e-9)
    assert np.mean([p.norm for p in pairs]) == pytest.approx((g**2).sum(1).mean(), rel=1e-12)
    assert np.mean([p.full for p in pairs]) == pytest.approx(
        np.mean([a @ b for a, b in itertools.combinations(g, 2)]), rel=1e-9
    )


def test_too_few_batches_are_refused():
    with pytest.raises(UsageError, match="at least 1"):
        gradient_variance(net("mlp"), F.cross_entropy, [])
    with pytest.raises(UsageError, match="at least 2"):
        gradient_variance(net("mlp"), F.cross_entropy, [samples("mlp")], exact=False)

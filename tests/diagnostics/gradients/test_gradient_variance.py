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


def tiny(kind="mlp", count=6):
    """Six samples of unlike gradients, and their gradients one by one, (6, P)."""
    model, (x, y) = net(kind), samples(kind, count)
    x = x * torch.linspace(0.3, 3, count, dtype=torch.float64)[:, None, None, None]
    return model, x, y, gradients(model.eval(), [(x[i : i + 1], y[i : i + 1]) for i in range(count)])


def moments(single, size):
    """E |g_B|^2 and Var(g_B) over all batches of a size that can be drawn from the samples."""
    drawn = np.stack([single[list(rows)].mean(0) for rows in itertools.combinations(range(len(single)), size)])
    return (drawn**2).sum(1).mean(), ((drawn - single.mean(0)) ** 2).sum(1).mean()


def draws(rows, sizes):
    """All ordered draws of batches of given sizes without replacement; the order within a batch does not matter."""
    if not sizes:
        yield ()
        return
    for first in itertools.combinations(rows, sizes[0]):
        for others in draws([i for i in rows if i not in first], sizes[1:]):
            yield (first, *others)


@pytest.mark.parametrize("sizes", [(2, 2), (2, 2, 1), (1, 1), (1, 1, 1), (2, 2, 2)])
def test_estimates_from_a_part_of_a_finite_population_are_unbiased(sizes):
    """The mean over every draw that is possible is the moment itself, with no Monte Carlo in between."""
    model, x, y, single = tiny()
    norm, variance = moments(single, sizes[0])
    found = [
        gradient_variance(
            model, F.cross_entropy, [(x[list(rows)], y[list(rows)]) for rows in drawn], exact=False, population=6
        )
        for drawn in draws(range(6), sizes)
    ]
    whole = (single.mean(0) ** 2).sum()
    assert np.mean([f.norm for f in found]) == pytest.approx(norm, rel=1e-10)
    assert np.mean([f.variance for f in found]) == pytest.approx(variance, rel=1e-9)
    assert np.mean([f.full for f in found]) == pytest.approx(whole, rel=1e-8)
    assert all(f.norm == pytest.approx(f.variance + f.full, rel=1e-12) for f in found)


@pytest.mark.parametrize("sizes", [(2, 2, 2), (4, 2), (5, 1)])
def test_moments_of_one_pass_are_unbiased_with_a_smaller_last_batch(sizes):
    model, x, y, single = tiny()
    norm, variance = moments(single, sizes[0])
    found = [
        gradient_variance(model, F.cross_entropy, [(x[list(rows)], y[list(rows)]) for rows in drawn])
        for drawn in draws(range(6), sizes)
    ]
    assert np.mean([f.norm for f in found]) == pytest.approx(norm, rel=1e-10)
    assert np.mean([f.variance for f in found]) == pytest.approx(variance, rel=1e-9)
    assert all(f.full == pytest.approx((single.mean(0) ** 2).sum(), rel=1e-9) for f in found)


def test_independent_draws_estimate_the_moments_of_the_distribution():
    """Every sequence of four samples of three, with repetition: the distribution is the three samples."""
    model, x, y, single = tiny(count=3)
    variance = ((single - single.mean(0)) ** 2).sum(1).mean()
    found = [
        gradient_variance(model, F.cross_entropy, [(x[[i]], y[[i]]) for i in rows], exact=False)
        for rows in itertools.product(range(3), repeat=4)
    ]
    assert np.mean([f.variance for f in found]) == pytest.approx(variance, rel=1e-9)
    assert np.mean([f.full for f in found]) == pytest.approx((single.mean(0) ** 2).sum(), rel=1e-8)


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ((2, 3), {}, "batch 2 has 3 samples and the first 2"),
        ((3, 2, 3), {}, "batch 2 has 2 samples and the first 3"),
        ((2, 2), {"exact": False, "population": 3}, "at most 3"),
        ((2, 2), {"population": 5}, "exactly 5"),
    ],
)
def test_batches_that_the_moments_do_not_fit_are_refused(sizes, options, message):
    x, y = samples("mlp", sum(sizes))
    batches = list(zip(x.split(list(sizes)), y.split(list(sizes)), strict=True))
    with pytest.raises(UsageError, match=message):
        gradient_variance(net("mlp"), F.cross_entropy, batches, **options)

"""What SSAM-D exchanges: how many entries, which ones die, and where others come alive."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from tests.core.support import drawn, net, sharp
from tests.recipes.sparse import Vector, shapes, steps, total
from tests.reference import ssam_d


def test_the_published_drop_schedule():
    values = [round(float(ssam_d.fraction(epoch, 200)), 4) for epoch in (0, 50, 100, 150, 200)]
    assert values == [0.5, 0.4268, 0.25, 0.0732, 0.0]


def test_as_many_entries_are_exchanged_as_the_schedule_says():
    model, d = Vector(1000), 1000
    opt = sharp("ssam-d", model, loss=total, total_steps=200, steps_per_epoch=1)
    generator = torch.Generator().manual_seed(0)
    masks = []
    for _ in range(200):
        opt.step((torch.randn(2, d, generator=generator, dtype=torch.float64), None))
        masks.append(drawn(opt, model))
    died = [int((a & ~b).sum()) for a, b in pairwise(masks)]
    grown = [int((b & ~a).sum()) for a, b in pairwise(masks)]
    assert died == grown == [round(500 * ssam_d.fraction(t, 200)) for t in range(1, 200)]
    assert (died[49], died[99], died[149]) == (213, 125, 37)


def exchanges(rule, model, count=8):
    """The clean gradient, and the masks before and after, of every exchange but the first; one a step."""
    seen = list(steps(rule, model, count, steps_per_epoch=1, total_steps=count))
    return [(t, seen[t][0], seen[t - 1][1], seen[t][1]) for t in range(1, count)]


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("drop", ["flat", "sharp", "random"])
def test_the_flattest_the_sharpest_or_any_die_and_dead_ones_come_alive(drop, sparsity):
    model = net()
    apart = False
    for t, g, old, new in exchanges(f"ssam-d:drop={drop}:sparsity={sparsity}", model):
        assert not ((new & ~old) & old).any()
        n = round(min(ssam_d.fraction(t, 8) * old.sum(), (~old).sum()))
        assert (old & ~new).sum() == (new & ~old).sum() == n
        expected = ssam_d.survivors(old, g, n, drop, shapes(model))
        if drop != "random":
            assert np.array_equal(old & new, expected)
        apart |= not np.array_equal(old & new, expected)
    assert apart == (drop == "random")


@pytest.mark.parametrize("structure", ["filter", "tensor"])
@pytest.mark.parametrize("drop", ["flat", "sharp"])
def test_whole_units_die_in_order_while_they_fit(structure, drop):
    model = net()
    for t, g, old, new in exchanges(f"ssam-d:structure={structure}:drop={drop}:alpha=1", model):
        n = round(min(ssam_d.fraction(t, 8, 1.0) * old.sum(), (~old).sum()))
        assert np.array_equal(old & new, ssam_d.survivors(old, g, n, drop, shapes(model), structure))


def test_a_group_of_four_exchanges_one_entry_at_most():
    """That of the smallest |g| of its live ones, and of the groups those where it is smallest."""
    model, index = net(), np.arange(51)
    wide = index[30:48].reshape(3, 6)
    groups = [*index[:24].reshape(6, 4), *wide[:, :4], *wide[:, 4:]]
    for t, g, old, new in exchanges("ssam-d:structure=2:4", model):
        n = round(min(ssam_d.fraction(t, 8) * old.sum(), (~old).sum()))
        candidates = [min(group[old[group]], key=lambda i: abs(g[i])) for group in groups]
        flattest = sorted(candidates, key=lambda i: abs(g[i]))[:n]
        assert np.flatnonzero(old & ~new).tolist() == sorted(flattest)


def test_the_first_step_exchanges_already():
    """Of 1000 entries the 100 sharpest are then nearly all live: half were, and stay; most of the others grow."""
    hits = {}
    for tm in (1, 0):
        model = Vector(1000)
        opt = sharp(f"ssam-d:alpha=0.9:tm={tm}", model, loss=total)
        opt.step((torch.arange(1000.0, dtype=torch.float64)[None], None))
        hits[tm] = int(drawn(opt, model)[-100:].sum())
    assert hits[1] > 80
    assert 30 < hits[0] < 70


def test_of_equally_flat_entries_the_last_dies():
    model = Vector(20)
    opt = sharp("ssam-d", model, loss=total, steps_per_epoch=1, total_steps=8)
    masks = []
    for _ in range(2):
        opt.step((torch.ones(1, 20, dtype=torch.float64), None))
        masks.append(drawn(opt, model))
    old, new = masks
    stay = np.flatnonzero(old)[: 10 - round(10 * ssam_d.fraction(1, 8))]
    assert np.flatnonzero(old & new).tolist() == stay.tolist()

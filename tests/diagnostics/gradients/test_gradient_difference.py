"""r = log(|h - g| / |g|): against a plain loop in double precision, and what has no r."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpkit.diagnostics import Grid, graddiff
from sharpkit.diagnostics.gradients.relative import FINE, Counter, counts
from sharpkit.errors import DivergedError, UsageError
from tests.diagnostics.support import net, samples, uneven

NOISE = 1e-13
"""A bias before batch norm has no gradient but rounding."""


def plain_gradients(model, x, y, rho):
    """The two gradients of SAM, written out."""
    params = list(model.parameters())
    g = torch.autograd.grad(F.cross_entropy(model(x), y), params)
    length = math.sqrt(sum(float((t * t).sum()) for t in g))
    with torch.no_grad():
        for p, t in zip(params, g, strict=True):
            p.add_(t, alpha=rho / (length + 1e-12))
    h = torch.autograd.grad(F.cross_entropy(model(x), y), params)
    with torch.no_grad():
        for p, t in zip(params, g, strict=True):
            p.sub_(t, alpha=rho / (length + 1e-12))
    return [t.flatten().tolist() for t in g], [t.flatten().tolist() for t in h]


def plain_r(g, h):
    """One entry after the other; entries with g = 0, or of rounding alone, have no r."""
    return [-math.inf if a == b else math.log(abs((b - a) / a)) for a, b in zip(g, h, strict=True) if abs(a) > NOISE]


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
@pytest.mark.parametrize("bn_mode", ["train", "eval"])
def test_r_is_that_of_a_plain_loop(kind, bn_mode):
    model, batches = net(kind), uneven(*samples(kind))
    grid = Grid(-12, 12, 48)
    found = graddiff(model, F.cross_entropy, batches, "sam:rho=0.2", bn_mode=bn_mode, grid=grid, eps=NOISE)
    model.train(bn_mode == "train")
    every, by_tensor = [], []
    for x, y in batches:
        g, h = plain_gradients(model, x, y, 0.2)
        by_tensor.append([plain_r(a, b) for a, b in zip(g, h, strict=True)])
        every += [r for rs in by_tensor[-1] for r in rs]
    total = found.total
    assert total.entries == 3 * sum(p.numel() for p in model.parameters())
    assert (total.counted, total.negative) == (len(every), sum(r < 0 for r in every))
    finite = [r for r in every if r > -math.inf]
    np.testing.assert_array_equal(total.histogram, np.histogram(finite, grid.edges)[0])
    assert total.under == sum(r < -12 for r in finite)
    assert total.histogram.sum() + total.under + total.over + total.same == total.counted
    for i, tensor in enumerate(found.tensors):
        mine = [r for batch in by_tensor for r in batch[i]]
        assert (tensor.tally.counted, tensor.tally.negative) == (len(mine), sum(r < 0 for r in mine))
    for k, batch in enumerate(by_tensor):
        own = [r for rs in batch for r in rs]
        assert found.fractions[k] == pytest.approx(sum(r < 0 for r in own) / len(own), abs=1e-15)
    for q, value in found.quantiles.items():
        assert value == pytest.approx(np.quantile(every, q, method="inverted_cdf"), abs=grid.width / FINE)


def test_layers_and_kinds_add_up_to_the_total():
    found = graddiff(net("cnn"), F.cross_entropy, uneven(*samples("cnn")))
    for parts in (found.by_layer(), found.by_kind(), {t.name: t.tally for t in found.tensors}):
        for name in ("entries", "counted", "negative", "same", "zero", "both_zero", "below_floor", "under"):
            assert sum(getattr(t, name) for t in parts.values()) == getattr(found.total, name)
        np.testing.assert_array_equal(sum(t.histogram for t in parts.values()), found.total.histogram)
    assert set(found.by_kind()) == {"Conv2d.weight", "Conv2d.bias", "BatchNorm2d.weight", "BatchNorm2d.bias",
                                    "Linear.weight", "Linear.bias"}  # fmt: skip


def test_norms_and_cosines_are_those_of_the_gradients():
    model, (x, y) = net("mlp"), samples("mlp")
    found = graddiff(model, F.cross_entropy, [(x, y)], "sam:rho=0.2")
    g, h = (np.concatenate(v) for v in plain_gradients(model, x, y, 0.2))
    assert found.clean_norms[0] == pytest.approx(np.linalg.norm(g), rel=1e-12)
    assert found.perturbed_norms[0] == pytest.approx(np.linalg.norm(h), rel=1e-12)
    assert found.difference_norms[0] == pytest.approx(np.linalg.norm(h - g), rel=1e-10)
    assert found.cosines[0] == pytest.approx(g @ h / np.linalg.norm(g) / np.linalg.norm(h), rel=1e-12)
    assert found.loss == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-12)
    assert math.isnan(found.error)


def test_one_large_batch_is_the_same_in_micro_batches():
    model, (x, y) = net("cnn"), samples("cnn")
    whole = graddiff(model, F.cross_entropy, [(x, y)], bn_mode="eval")
    cut = graddiff(model, F.cross_entropy, [(x, y)], bn_mode="eval", accumulate=3)
    assert cut.total.negative == whole.total.negative
    np.testing.assert_allclose(cut.difference_norms, whole.difference_norms, rtol=1e-9)


def counted(g, h, *, eps=0.0, dtype=torch.float32, grid=None):
    counter = Counter(1, grid or Grid(), eps, torch.device("cpu"))
    counter.add([torch.tensor(g, dtype=dtype)], [torch.tensor(h, dtype=dtype)])
    (tally,), bad = counter.read()
    return tally, bad


def test_every_entry_is_in_one_class():
    g = [0.0, 0.0, -0.0, 1e-40, -1e-40, 1.0, 1.0, 2.0, -1.0, 0.01, 0.5]
    h = [0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 3.0, 2.5, -1.0 - 2**-23, 5.0, 0.5 - 2**-25]
    tally, bad = counted(g, h)
    assert bad == 0
    assert (tally.entries, tally.both_zero, tally.zero, tally.denormal) == (11, 2, 1, 2)
    assert (tally.counted, tally.excluded, tally.same) == (6, 5, 1)
    # 1 -> 1, 2 -> 2.5, -1 by one rounding, 0.5 by half of one
    assert tally.negative == 4
    assert tally.below_floor == 3
    assert tally.histogram.sum() == 5
    assert counted(g, h, eps=0.6)[0].below_eps == 2
    assert counted(g, h, eps=0.6)[0].counted == 4


def test_what_is_beyond_the_grid_is_counted_too():
    tally, _ = counted([1.0] * 4, [1 + math.exp(-3.5), 1 + math.exp(0.5), 1 + math.exp(4.5), 1.0],
                       grid=Grid(-2, 2, 4), dtype=torch.float64)  # fmt: skip
    assert (tally.under, tally.over, tally.same, list(tally.histogram)) == (1, 1, 1, [0, 0, 1, 0])
    grid = Grid(-2, 2, 4)
    assert tally.quantile(0.2, grid) == -math.inf
    assert tally.quantile(0.5, grid) == -2
    assert 0.5 <= tally.quantile(0.75, grid) <= 0.5 + 1 / FINE
    assert tally.quantile(1.0, grid) == 2


def test_chunks_do_not_show(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    g, h = torch.randn(1000, generator=generator).tolist(), torch.randn(1000, generator=generator).tolist()
    whole, _ = counted(g, h)
    monkeypatch.setattr("sharpkit.diagnostics.gradients.relative._CHUNK", 7)
    cut, _ = counted(g, h)
    assert whole.negative == cut.negative
    np.testing.assert_array_equal(whole.fine, cut.fine)


def test_both_ways_to_count_agree():
    place = torch.randint(50, (1000,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(counts(place, 64, quick=True), counts(place, 64, quick=False))
    assert counts(place, 64, quick=False).sum() == 1000


@pytest.mark.gpu
def test_on_a_device_it_is_the_same():
    where = torch.accelerator.current_accelerator()
    model, (x, y) = net("cnn"), samples("cnn")
    here = graddiff(model, F.cross_entropy, [(x, y)], bn_mode="eval")
    there = graddiff(model.to(where), F.cross_entropy, [(x.to(where), y.to(where))], bn_mode="eval")
    assert abs(here.total.negative - there.total.negative) <= 1
    np.testing.assert_allclose(there.difference_norms, here.difference_norms, rtol=1e-8)


def test_dead_units_are_excluded_and_counted():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    model[0].bias.data[0] = -100.0
    found = graddiff(model, F.cross_entropy, [(torch.randn(16, 4), torch.randint(2, (16,)))])
    assert found.total.both_zero == 4 + 1 + 2
    assert found.by_layer()["0"].both_zero == 5


def test_double_precision_has_a_lower_floor():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    batch = (torch.randn(16, 4), torch.randint(2, (16,)))
    single, double = (graddiff(model, F.cross_entropy, [batch], "sam:rho=1e-7", dtype=d) for d in (None, torch.float64))
    assert (single.dtype, double.dtype) == ("float32", "float64")
    assert single.total.fraction_below_floor > 0.2
    assert double.total.fraction_below_floor == 0
    assert next(model.parameters()).dtype == torch.float32


def test_stopping_gives_what_is_there():
    batches = uneven(*samples("mlp"))
    found = graddiff(net("mlp"), F.cross_entropy, batches, watch=lambda done, of: (done, of) != (2, 3))
    assert (found.batches, found.complete) == (2, False)


def test_what_is_not_allowed():
    model, batch = net("mlp"), samples("mlp")
    with pytest.raises(UsageError, match="at least one"):
        graddiff(model, F.cross_entropy, [])
    with pytest.raises(UsageError, match="never perturbs"):
        graddiff(model, F.cross_entropy, [batch], "sgd")
    model[1].weight.data[0, 0] = math.nan
    with pytest.raises(DivergedError, match="not finite"):
        graddiff(model, F.cross_entropy, [batch])

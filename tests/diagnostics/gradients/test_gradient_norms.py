"""Squared gradient norms: against a plain loop; Q-Q statistics against SciPy and simulated data of known kinds."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from sharpkit.diagnostics import gradnorms
from sharpkit.diagnostics.gradients.adaptive import ae_sam_share, nominal, simulated
from sharpkit.diagnostics.gradients.normality import normality
from sharpkit.errors import DivergedError, UsageError
from tests.diagnostics.support import net, samples

KINDS = {
    "normal": lambda draw, n: draw.normal(5, 2, n),
    "lognormal": lambda draw, n: draw.lognormal(0, 0.5, n),
    "exponential": lambda draw, n: draw.exponential(1, n),
}


def drawn(kind, count=400, seed=0):
    return KINDS[kind](np.random.default_rng(seed), count)


def test_every_batch_has_dropout_masks_of_its_own_and_the_first_those_of_the_seed():
    model, batch = net("encoder"), samples("encoder")
    values = gradnorms(model, F.cross_entropy, [batch, batch], dropout=True, seed=3).values
    assert values[0] != values[1]
    assert gradnorms(model, F.cross_entropy, [batch], dropout=True, seed=3).values[0] == values[0]
    torch.manual_seed(3)
    model.train()
    grads = torch.autograd.grad(F.cross_entropy(model(batch[0]), batch[1]), list(model.parameters()))
    assert values[0] == pytest.approx(float(sum((g * g).sum() for g in grads)), rel=1e-12)


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
@pytest.mark.parametrize("bn_mode", ["train", "eval"])
def test_norms_are_those_of_a_plain_loop(kind, bn_mode):
    model, (x, y) = net(kind), samples(kind, 40)
    batches = list(zip(x.split(5), y.split(5), strict=True))
    found = gradnorms(model, F.cross_entropy, batches, bn_mode=bn_mode)
    model.train(bn_mode == "train")
    for value, loss, (a, b) in zip(found.values, found.losses, batches, strict=True):
        mean = F.cross_entropy(model(a), b)
        grads = torch.autograd.grad(mean, list(model.parameters()))
        assert value == pytest.approx(sum(v * v for t in grads for v in t.flatten().tolist()), rel=1e-12)
        assert loss == pytest.approx(mean.item(), rel=1e-12)


def test_single_precision_norms_are_added_up_in_double():
    torch.manual_seed(0)
    model = torch.nn.Linear(2000, 500)
    x, y = torch.randn(8, 2000), torch.randint(500, (8,))
    single = gradnorms(model, F.cross_entropy, [(x, y)])
    double = gradnorms(model, F.cross_entropy, [(x, y)], dtype=torch.float64)
    assert single.values[0] == pytest.approx(double.values[0], rel=2e-6)


def test_weights_buffers_and_gradients_stay():
    model, (x, y) = net("cnn"), samples("cnn")
    kept = torch.randn_like(next(model.parameters()))
    next(model.parameters()).grad = kept
    before = {key: value.clone() for key, value in model.state_dict().items()}
    stream = torch.get_rng_state()
    gradnorms(model, F.cross_entropy, [(x, y)], dropout=True)
    assert next(model.parameters()).grad is kept
    assert torch.equal(torch.get_rng_state(), stream)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_are_those_of_scipy(kind):
    values = drawn(kind)
    found = normality(values)
    (theoretical, ordered), (slope, intercept, r) = stats.probplot(values)
    np.testing.assert_allclose(found.theoretical, theoretical, rtol=1e-12)
    np.testing.assert_array_equal(found.ordered, ordered)
    assert (found.slope, found.intercept, found.r_qq) == pytest.approx((slope, intercept, r), rel=1e-10)
    assert found.skewness == pytest.approx(stats.skew(values), rel=1e-10)
    assert found.kurtosis == pytest.approx(stats.kurtosis(values), rel=1e-10)
    assert found.shapiro.statistic == pytest.approx(stats.shapiro(values).statistic, rel=1e-12)


@pytest.mark.filterwarnings("ignore:As of SciPy 1.17:FutureWarning")
def test_anderson_and_darling_reject_where_the_published_critical_values_say():
    for kind in KINDS:
        found = normality(drawn(kind)).anderson
        theirs = stats.anderson(drawn(kind), "norm")
        assert found.statistic == pytest.approx(theirs.statistic, rel=1e-10)
    # D'Agostino and Stephens (1986), table 4.7: critical values of A^2 (1 + 0.75 / n + 2.25 / n^2)
    for level, critical in ((0.10, 0.631), (0.05, 0.752), (0.025, 0.873), (0.01, 1.035)):
        p = math.exp(1.2937 - 5.709 * critical + 0.0186 * critical**2)
        assert p == pytest.approx(level, rel=0.02)


@pytest.mark.parametrize(
    ("kind", "skewness", "kurtosis", "rejected"),
    [("normal", 0, 0, False), ("lognormal", 1.75, 5.9, True), ("exponential", 2, 6, True)],
)
def test_simulated_data_get_the_known_answers(kind, skewness, kurtosis, rejected):
    large = normality(drawn(kind, 20_000))
    assert large.skewness == pytest.approx(skewness, abs=0.15)
    assert large.kurtosis == pytest.approx(kurtosis, abs=1.5)
    found = [normality(drawn(kind, seed=seed)) for seed in range(10)]
    share = np.mean([f.rejected for f in found])
    assert share == 1 if rejected else share < 0.2
    assert ("not normal" in found[0].verdict) is rejected
    # A pointwise envelope of 95 % leaves one point in twenty of a normal sample outside.
    outside = np.mean([f.outside for f in found]) / 400
    assert outside > 0.3 if rejected else outside < 0.05


def test_p_values_of_normal_data_are_spread_evenly():
    found = [normality(drawn("normal", 60, seed)) for seed in range(300)]
    for p in ([f.anderson.p for f in found], [f.shapiro.p for f in found]):
        assert stats.kstest(p, "uniform").pvalue > 1e-3


@pytest.mark.slow
def test_the_envelope_holds_95_percent_of_normal_samples_at_every_rank():
    """Pointwise, over 2,000 samples of 200 numbers: 5 % are outside, with a standard deviation of 0.49 points."""
    outside = np.zeros(200)
    for seed in range(2_000):
        found = normality(drawn("normal", 200, seed))
        outside += (found.ordered < found.low) | (found.ordered > found.high)
    assert (outside / 2_000 < 0.07).all()
    assert (outside / 2_000 > 0.03).all()
    assert 0.045 < outside.mean() / 2_000 < 0.055


@pytest.mark.slow
def test_p_values_of_more_normal_numbers_than_shapiro_takes_are_spread_evenly():
    found = [normality(drawn("normal", 5_500 + 10 * seed, seed)) for seed in range(300)]
    assert {f.shapiro_count for f in found} == {5_000}
    for p in ([f.anderson.p for f in found], [f.shapiro.p for f in found]):
        assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_shapiro_and_wilk_get_a_random_part_of_many_numbers():
    """Against SciPy on the same draw; a part that is taken in order would be accepted whatever the numbers are."""
    values = drawn("normal", 12_000)
    found = normality(values, seed=4)
    part = np.random.default_rng(4).choice(np.sort(values), 5_000, replace=False)
    assert found.shapiro.statistic == pytest.approx(stats.shapiro(part).statistic, rel=1e-12)
    assert found.shapiro_count == 5_000
    assert normality(values, seed=5).shapiro.p != found.shapiro.p
    assert "5,000 of 12,000 at random" in found.verdict
    assert normality(values[:5_000]).shapiro_count == 5_000
    assert "at random" not in normality(values[:5_000]).verdict
    p = [normality(drawn("normal", 6_000, seed)).shapiro.p for seed in range(20)]
    assert min(p) < 0.3


def test_too_few_or_equal_numbers_are_said():
    assert "too few" in normality(np.arange(5.0)).verdict
    assert "equal" in normality(np.ones(20)).verdict
    assert math.isnan(normality(np.ones(20)).r_qq)


def test_the_nominal_share_is_the_integral():
    for a, b in ((-1, 1), (0, 2), (-2, 0.5)):
        mean = np.mean(stats.norm.sf(np.linspace(a, b, 200_001)))
        assert nominal(a, b) == pytest.approx(mean, abs=1e-5)
    assert nominal(-1, 1) == pytest.approx(0.5)
    assert nominal(1.0, 1.0) == pytest.approx(stats.norm.sf(1))


@pytest.mark.parametrize(
    ("kind", "lams", "expected"),
    [
        ("normal", (-1, 1), 0.50),
        ("normal", (0, 2), 0.197),
        ("lognormal", (-1, 1), 0.45),
        ("exponential", (-1, 1), 0.43),
    ],
)
def test_the_share_of_ae_sam_with_known_distributions(kind, lams, expected):
    """The values of its own averages were found by simulating its equations apart from this code."""
    values = drawn(kind, 20_000)
    found = ae_sam_share(values, *lams)
    assert found.empirical_averaged == pytest.approx(expected, abs=0.012)
    assert found.nominal_averaged == pytest.approx(0.5 if lams == (-1, 1) else 0.197, abs=0.012)
    z = (values - values.mean()) / values.std(ddof=1)
    direct = np.mean([(z >= c).mean() for c in np.linspace(*lams, 801)])
    assert found.empirical == pytest.approx(direct, abs=1e-3)


@pytest.mark.slow
def test_the_error_of_the_simulated_share_covers_it():
    """95 % intervals of 200 seeds around the share of very many runs: 190 +- 3.1, and 180 is three deviations off."""
    values = drawn("exponential", 200)
    found = [ae_sam_share(values, seed=seed) for seed in range(200)]
    exact = np.mean([ae_sam_share(values, seed=1_000 + seed).empirical_averaged for seed in range(200)])
    t = stats.t.ppf(0.975, 99)
    covered = sum(abs(f.empirical_averaged - exact) <= t * f.error for f in found)
    assert 180 <= covered <= 199


def test_the_simulated_run_is_that_of_the_gate():
    """The gate of the recipe itself, asked step after step."""
    from types import SimpleNamespace

    from sharpkit.core.step import Clock
    from sharpkit.recipes.ae_sam import LargeGradient

    norms, shared = drawn("exponential", 300), {}
    asked = 0
    for t, n in enumerate(norms):
        grad = [torch.tensor([math.sqrt(n)], dtype=torch.float64)]
        step = SimpleNamespace(
            here=SimpleNamespace(grad=grad), shared=shared, clock=Clock(t, 300), note=lambda *_: None
        )
        asked += LargeGradient(-1.0, 1.0, 0.9).perturbs(step)
    both = np.stack([norms, norms], 1)
    assert simulated(both, -1.0, 1.0, 0.9) == pytest.approx(asked / 300, abs=1e-9)
    assert simulated(both, -1.0, 1.0, 0.9, before=100) != simulated(both, -1.0, 1.0, 0.9)


def test_what_is_not_allowed():
    model, (x, y) = net("mlp"), samples("mlp")
    with pytest.raises(UsageError, match="there is no batch"):
        gradnorms(model, F.cross_entropy, [])
    with pytest.raises(UsageError, match="7 to 13"):
        gradnorms(model, F.cross_entropy, list(zip(x.split([13, 7]), y.split([13, 7]), strict=True)))
    with pytest.raises(UsageError, match="delta"):
        ae_sam_share(np.arange(10.0), delta=1.0)
    model[1].weight.data[0, 0] = math.nan
    with pytest.raises(DivergedError, match="not finite"):
        gradnorms(model, F.cross_entropy, [(x, y)])

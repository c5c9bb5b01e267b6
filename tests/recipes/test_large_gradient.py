"""AE-SAM's gate: which steps it perturbs, whatever the gradients are."""

import math
from types import SimpleNamespace

import pytest
import torch

from sharpkit.core.step import Clock
from sharpkit.errors import UsageError
from sharpkit.recipes.ae_sam import LargeGradient
from tests.core.support import batch, bits, gradient, joint_norm, net, sharp, weights

LONG = 78_200  # 391 steps an epoch, 200 epochs


class Driven:
    """The gate alone, on given squared gradient norms."""

    def __init__(self, lam1, lam2, delta=0.9, total=20, memory=None):
        self.gate = LargeGradient(lam1, lam2, delta)
        self.memory = {} if memory is None else memory
        self.total, self.t, self.notes = total, 0, {}

    def __call__(self, grad):
        step = SimpleNamespace(
            here=SimpleNamespace(grad=grad),
            shared=self.memory,
            clock=Clock(self.t, self.total),
            note=self.notes.__setitem__,
        )
        self.t += 1
        return self.gate.perturbs(step)


def root(n, dtype=torch.float64):
    return [torch.tensor([math.sqrt(n)], dtype=dtype)]


def normal(steps, spread=0.1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (1 + spread * torch.randn(steps, generator=generator, dtype=torch.float64)).tolist()


@pytest.mark.slow
def test_fractions_on_independent_normal_norms():
    """Half of the steps with (-1, 1); with (0, 2) 19.7 %, where comparing before the update would give 21.7 %."""
    half, fifth = Driven(-1, 1, total=LONG), Driven(0, 2, total=LONG)
    seen, early = [], 0
    mean, variance = 0.0, math.exp(-10)
    for t, n in enumerate(normal(LONG)):
        grad = root(n)
        seen.append((half(grad), fifth(grad)))
        early += n >= mean + 2 * (1 - t / LONG) * math.sqrt(variance)
        mean = 0.9 * mean + 0.1 * n
        variance = 0.9 * variance + 0.1 * (n - mean) ** 2
    fractions = [100 * sum(column) / LONG for column in zip(*seen, strict=True)]
    assert fractions == [pytest.approx(50.0, abs=0.5), pytest.approx(19.7, abs=0.3)]
    assert 100 * early / LONG == pytest.approx(21.7, abs=0.3)


LAMS = [(a, b) for a in range(-2, 3) for b in range(a, 3)]
IDEAL = dict(
    zip(LAMS, (97.7, 92.5, 80.5, 64.2, 50.0, 84.1, 68.4, 50.0, 35.8, 50.0, 31.6, 19.5, 15.9, 7.5, 2.3), strict=True)
)


def test_more_is_perturbed_the_lower_either_threshold():
    """Not only on average: the steps that a higher threshold perturbs are among those of a lower one."""
    steps = 3000
    grads = [root(n) for n in normal(steps, seed=1)]
    chosen = {}
    for lams in LAMS:
        gate = Driven(*lams, total=steps)
        chosen[lams] = {t for t, grad in enumerate(grads) if gate(grad)}
        assert 100 * len(chosen[lams]) / steps == pytest.approx(IDEAL[lams], abs=3)
    for lam1, lam2 in LAMS:
        for higher in ((lam1 + 1, lam2), (lam1, lam2 + 1)):
            if higher in chosen:
                assert chosen[higher] < chosen[lam1, lam2]


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e6])
def test_the_z_score_never_exceeds_the_root_of_ten(scale):
    """However violent the norms: the current one is in both averages."""
    gate = Driven(-1, 1, total=2000)
    largest = 0.0
    for n in normal(1000, spread=0.01):
        gate(root(n * scale))
        largest = max(largest, abs(float(gate.notes["z_score"])))
    gate(root(1e12 * scale))
    largest = max(largest, abs(float(gate.notes["z_score"])))
    assert 3.1 < largest <= math.sqrt(10) * (1 + 1e-6)
    for lam, always in ((3.163, False), (-3.163, True)):
        gate = Driven(lam, lam, total=300)
        assert {gate(root(n)) for n in [*normal(100, spread=0.3), 1e9, 1e-9, *[1.0] * 50]} == {always}


@pytest.mark.parametrize("delta", [0.0, 0.5, 0.99])
def test_the_bound_of_the_z_score_is_that_of_delta(delta):
    gate = Driven(-1, 1, delta)
    for n in (1.0, 1.0, 1.0, 1e9):
        gate(root(n))
    if delta:
        assert float(gate.notes["z_score"]) == pytest.approx(math.sqrt(1 / (1 - delta)), rel=1e-2)
    assert float(gate.notes.get("z_score", 0)) <= math.sqrt(1 / (1 - delta)) * (1 + 1e-6)


@pytest.mark.parametrize("n", [0.1, 1.0, 100.0])
@pytest.mark.parametrize(("c", "count"), [(1, 7), (2, 2)])
def test_the_cold_start_perturbs_the_first_steps_of_constant_norms(c, count, n):
    """With c_t = c on every step: mu starts at 0, so that n looks large until mu has caught up."""
    gate = Driven(c, c, total=100)
    assert [gate(root(n)) for _ in range(100)] == [True] * count + [False] * (100 - count)


def first_threshold(c, variance):
    """The n at which a gate with mu = 0 perturbs: 0.9 n = c sqrt(0.9 variance + 0.081 n^2)."""
    return c * math.sqrt(0.9 * variance / (0.81 - 0.081 * c**2))


@pytest.mark.parametrize(("c", "published"), [(1, 7.5e-3), (2, 1.83e-2)])
def test_the_first_step_is_decided_by_the_starting_variance(c, published):
    n = first_threshold(c, math.exp(-10))
    assert n == pytest.approx(published, rel=3e-3)
    assert Driven(0, c)(root(n * (1 + 1e-9)))
    assert not Driven(0, c)(root(n * (1 - 1e-9)))


@pytest.mark.parametrize(("lam1", "lam2"), [(0.5, 2.0), (2.0, 0.5), (1.0, 1.0)])
@pytest.mark.parametrize("t", [0, 1, 50, 99, 100, 250])
def test_the_threshold_goes_from_lam2_to_lam1(t, lam1, lam2):
    """c_0 = lam2, c_(T/2) is the mean and c_(T-1) = lam1 + (lam2 - lam1) / T; past the end it stays at lam1."""
    c = lam1 + (lam2 - lam1) * max(0, 1 - t / 100)
    for side, expected in ((1 + 1e-9, True), (1 - 1e-9, False)):
        gate = Driven(lam1, lam2, total=100, memory={"ae.mean": 0.0, "ae.variance": 4.0})
        gate.t = t
        assert gate(root(first_threshold(c, 4.0) * side)) is expected


def test_without_variance_every_step_is_at_the_threshold():
    """delta = 0: mean = n and sigma = 0, so that n >= mu + c sigma whatever c is."""
    gate = Driven(3, 3, delta=0.0)
    assert all(gate(root(n)) for n in (1.0, 5.0, 0.0, 2.0))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_gradient_that_is_not_finite_neither_perturbs_nor_enters_the_averages(value, dtype):
    gate = Driven(-4, -4)
    assert not gate([torch.tensor([1.0, value], dtype=dtype)])
    assert gate.memory == {}
    assert gate(root(1.0))
    kept = dict(gate.memory)
    assert not gate([torch.tensor([value], dtype=dtype), torch.ones(2, dtype=dtype)])
    assert gate.memory == kept
    assert gate(root(1.0))
    assert all(math.isfinite(v) for v in gate.memory.values())


@pytest.mark.parametrize(
    ("size", "dtype"),
    [
        (1e18, torch.float32),
        (3e38, torch.float32),
        (1e60, torch.float64),
        (1e80, torch.float64),
        (1e200, torch.float64),
    ],
)
def test_a_huge_gradient_does_not_break_the_gate(size, dtype):
    """n or (n - mu)^2 may be beyond the largest number though the gradient is finite."""
    gate = Driven(0, 2)
    for grad in (root(1.0), [torch.tensor([size], dtype=dtype)], root(1.0)):
        gate(grad)
        assert all(math.isfinite(v) for v in gate.memory.values())


@pytest.mark.parametrize("rule", ["ae-sam", "ae-looksam", "ae-sam+vasso", "ae-sam+gsam"])
def test_a_batch_that_is_not_finite_does_not_poison_the_gate(rule):
    model = net()
    opt = sharp(rule, model)
    for t in range(3):
        opt.step(batch(seed=t))
    kept = {k: v for k, v in opt.state_dict()["memory"].items() if k.startswith("all/ae.")}
    x, y = batch(seed=3)
    x[0, 0] = math.inf
    saved = weights(model)
    report = opt.step((x, y))
    assert not report.perturbed
    assert report.backward_samples == 8
    assert {k: v for k, v in opt.state_dict()["memory"].items() if k.startswith("all/ae.")} == kept
    for p, w in zip(model.parameters(), saved, strict=True):  # whoever restores the weights goes on
        p.data.copy_(w)
    opt.base.state.clear()
    before = weights(model)
    opt.step(batch(seed=4))
    assert all(math.isfinite(opt.state_dict()["memory"][k]) for k in kept)
    assert bits(before) != bits(weights(model))


def test_the_norm_is_that_of_the_clean_gradient_without_weight_decay_or_clipping():
    model = net()
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=10.0)
    opt = sharp("ae-sam", model, base, clip=1e-3)
    mean = 0.0
    for t in range(4):
        mean = 0.9 * mean + 0.1 * joint_norm(gradient(model, *batch(seed=t))) ** 2
        opt.step(batch(seed=t))
        assert opt.state_dict()["memory"]["all/ae.mean"] == pytest.approx(mean, rel=1e-12)


def test_the_gate_needs_to_know_the_length_of_the_run():
    for rule in ("ae-sam", "ae-looksam", "ae-sam+asam"):
        with pytest.raises(UsageError, match="total_steps"):
            sharp(rule, net(), total_steps=None)

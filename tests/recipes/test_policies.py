"""When the recipes perturb, what the steps between cost, and what follows the learning rate or cuts the batch."""

import copy
import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpkit import parse
from sharpkit.core.parts import Bernoulli, Every
from sharpkit.core.step import Clock
from sharpkit.errors import UsageError
from sharpkit.recipes.ae_sam import LargeGradient
from tests.core.support import batch, bits, everything, gradient, joint_norm, net, sharp, trail, weights

LONG = 78_200  # 391 steps an epoch, 200 epochs


def decisions(rule, steps, kind="linear", size=4, **options):
    model = net(kind)
    opt = sharp(rule, model, torch.optim.SGD(model.parameters(), lr=0.01), **{"total_steps": steps, **options})
    return [opt.step(batch(size, seed=t)).perturbed for t in range(steps)]


# ---------------------------------------------------------------------- every k steps


@pytest.mark.parametrize(("k", "percent"), [(1, 100), (2, 50), (3, 100 / 3), (4, 25), (5, 20)])
def test_looksam_perturbs_the_published_fraction_of_the_steps(k, percent):
    seen = decisions(f"looksam:k={k}", 60)
    assert seen == [t % k == 0 for t in range(60)]
    assert 100 * sum(seen) / 60 == pytest.approx(percent, abs=1e-12)


def test_a_k_longer_than_the_run_perturbs_once():
    assert decisions("looksam:k=1000", 5) == [True, False, False, False, False]


def test_the_age_of_v_counts_the_steps_since_it_was_found():
    model = net()
    opt = sharp("looksam:k=4", model)
    ages = [opt.step(batch(seed=t)).notes.get("age_of_v") for t in range(9)]
    assert [age if age is None else float(age) for age in ages] == [None, 1, 2, 3, None, 1, 2, 3, None]


def test_the_age_of_v_under_a_gate_that_may_stay_shut():
    """None before the first perturbation, and no limit after."""
    model = net()
    opt = sharp("ae-looksam:lam1=2:lam2=2", model)
    reports = [opt.step(batch(8, seed=0)) for _ in range(12)]
    assert [r.perturbed for r in reports[:3]] == [True, True, False]  # nearly constant norms: the cold start
    assert [float(r.notes["age_of_v"]) for r in reports[2:6]] == [1, 2, 3, 4]
    shut = sharp("ae-looksam:lam1=4:lam2=4", net())
    assert all("age_of_v" not in shut.step(batch(seed=t)).notes for t in range(3))


class Weights(nn.Module):
    """The model whose outputs are its parameters, so that a linear loss has one gradient everywhere."""

    def __init__(self, **parts):
        super().__init__()
        for name, value in parts.items():
            self.register_parameter(name, nn.Parameter(torch.tensor(value, dtype=torch.float64)))

    def forward(self, x):
        return x * torch.cat(list(self.parameters()))


@pytest.mark.parametrize("scope", ["global", "tensor"])
def test_without_a_direction_to_reuse_looksam_hands_on_g(scope):
    """Of a linear loss h = g and v = 0: the base optimizer's steps, bit for bit."""
    ends = []
    for rule in (f"looksam:k=3:rho=0.5:scope={scope}", "sgd"):
        model = Weights(a=[1.0, -2.0], b=[0.3, 0.7, 0.1])
        opt = sharp(rule, model, loss=lambda o, t, reduction: o.sum(1))
        for t in range(7):
            opt.step((torch.full((2, 5), 0.1 * (t + 1), dtype=torch.float64), None))
        ends.append(bits(weights(model)))
    assert ends[0] == ends[1]


@pytest.mark.parametrize("scope", ["global", "tensor"])
def test_a_tensor_without_a_direction_does_not_spoil_the_others(scope):
    """The loss is linear in a and curved in b, whose part of v alone is not zero, tensor by tensor."""
    curved = lambda o, t, reduction: o[:, :2].sum(1) + (o[:, 2:] ** 4 / 4).sum(1)  # noqa: E731
    model = Weights(a=[1.0, -2.0], b=[0.3, 0.7])
    opt = sharp(f"looksam:k=2:rho=0.5:scope={scope}", model, torch.optim.SGD(model.parameters(), lr=0.1), loss=curved)
    x = torch.ones(1, 4, dtype=torch.float64)
    opt.step((x, None))
    v = opt.state_dict()["memory"]["0/looksam.v"]
    before = weights(model)
    opt.step((x, None))
    u = [(a - b) / 0.1 for a, b in zip(before, weights(model), strict=True)]
    g = [torch.ones(2, dtype=torch.float64), before[1] ** 3]
    blocks = [(g, v, u)] if scope == "global" else [([a], [b], [c]) for a, b, c in zip(g, v, u, strict=True)]
    for clean, reused, handed in blocks:
        length = joint_norm(reused)
        factor = 0.7 * joint_norm(clean) / length if length > 1e-12 else 0.0
        torch.testing.assert_close(
            handed, [a + factor * b for a, b in zip(clean, reused, strict=True)], rtol=0, atol=1e-12
        )
    assert (joint_norm([v[0]]) < 1e-12) == (scope == "tensor")


def test_a_gradient_of_zero_is_survived():
    """g = 0 on the step that perturbs leaves v = 0; g = 0 on the step that reuses leaves u = 0."""
    model = Weights(a=[1.0, -2.0])
    opt = sharp(
        "looksam:k=3", model, torch.optim.SGD(model.parameters(), lr=0.1), loss=lambda o, t, reduction: o.sum(1)
    )
    for scale in (0.0, 1.0, 0.0, 1.0, 0.0):
        before = weights(model)
        opt.step((torch.full((1, 2), scale, dtype=torch.float64), None))
        torch.testing.assert_close(weights(model), [before[0] - 0.1 * scale], rtol=0, atol=1e-15)
    assert opt.counters()["zero_norm"] == 1


# ---------------------------------------------------------------------- at random


def draws(p, steps, seed=0):
    step = SimpleNamespace(generator=torch.Generator().manual_seed(seed))
    return [Bernoulli(p).perturbs(step) for _ in range(steps)]


@pytest.mark.parametrize("p", [0.02, 0.5, 0.9])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_coin_falls_within_four_standard_deviations(p, seed):
    n = 20_000
    seen = draws(p, n, seed)
    assert abs(sum(seen) / n - p) < 4 * math.sqrt(p * (1 - p) / n)
    pairs = sum(a and b for a, b in pairwise(seen)) / (n - 1)  # and does not remember
    assert abs(pairs - p * p) < 4 * math.sqrt(3 * p * p * (1 - p * p) / n)


def test_ss_sam_perturbs_half_of_its_steps():
    seen = decisions("ss-sam:p=0.5", 400)
    assert abs(sum(seen) / 400 - 0.5) < 4 * math.sqrt(0.25 / 400)
    assert seen == draws(0.5, 400)  # one draw a step, and nothing else draws from the stream


@pytest.mark.parametrize("rule", ["ss-sam", "ss-sam+gnp", "ss-sam+vasso", "ss-sam+bisam-tanh"])
def test_the_draws_are_the_rules_own(rule):
    """Neither torch's seed nor the net's dropout changes them; the optimizer's seed does."""
    seen = []
    for torch_seed, kind in ((0, "mlp"), (1, "mlp"), (2, "dropout")):
        torch.manual_seed(torch_seed)
        seen.append(decisions(rule, 40, kind))
    assert seen[0] == seen[1] == seen[2] == draws(0.5, 40)
    assert decisions(rule, 40, seed=7) == draws(0.5, 40, seed=7) != seen[0]


def test_the_draws_do_not_move_torchs_own_stream():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    decisions("ss-sam", 5)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_step_that_fails_takes_its_draw_back():
    model = net()
    opt = sharp("ss-sam", model)
    seen = []
    for t in range(20):
        with pytest.raises(RuntimeError):
            opt.step((torch.zeros(2, 99, dtype=torch.float64), torch.zeros(2, dtype=torch.int64)))
        seen.append(opt.step(batch(seed=t)).perturbed)
    assert seen == draws(0.5, 20)


# ---------------------------------------------------------------------- where the gradient is large


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


# ---------------------------------------------------------------------- what a step costs


@pytest.mark.parametrize("kind", ["mlp", "batch-norm", "dropout"])
@pytest.mark.parametrize(
    "rule",
    [
        *(
            "ss-sam",
            "looksam:k=3",
            "ae-sam:lam1=2:lam2=2",
            "ae-looksam:lam1=2:lam2=2",
            "ss-sam+gnp",
            "ae-sam+gsam:lam1=2:lam2=2",
        ),
        *("ss-sam+asam", "ae-sam+vasso:lam1=2:lam2=2", "ss-sam+vasso", "ss-sam+bisam-log", "sgd"),
    ],
)
def test_a_step_that_does_not_perturb_costs_exactly_one_gradient(rule, kind):
    model = net(kind)
    seen = trail(model)
    opt = sharp(rule, model)
    skipped = 0
    for t in range(12):
        seen.clear()
        size = 8 - t % 3
        report = opt.step(batch(size, seed=t))
        if not report.perturbed:
            skipped += 1
            assert (report.gradients, report.sequential, report.critical) == (1, 1, 1)
            assert (report.forward_samples, report.backward_samples, len(seen)) == (size, size, 1)
        else:
            assert len(seen) == 2
    assert skipped > 0
    assert (skipped < 12) == (rule != "sgd")


@pytest.mark.parametrize("loss", ["tanh", "log"])
def test_a_skipped_step_whose_average_is_of_the_bisam_gradient_makes_that_too(loss):
    opt = sharp(f"ss-sam+vasso+bisam-{loss}:rho=0.1", net())
    skipped = [r for r in (opt.step(batch(seed=t)) for t in range(12)) if not r.perturbed]
    assert skipped
    assert {r.gradients for r in skipped} == {2}


RESUMED = ["looksam:k=3", "looksam:k=4:scope=tensor", "ss-sam", "ae-sam", "ae-looksam:lam1=2:lam2=2", "ss-sam+vasso"]
RESUMED += ["ae-sam+vasso", "vasso+looksam:k=3:rho=0.1", "msam+looksam:k=3:rho=0.1:m=2", "sampa+vasso:rho=0.1"]


@pytest.mark.parametrize("kind", ["mlp", "dropout"])
@pytest.mark.parametrize("at", [1, 4])
@pytest.mark.parametrize("rule", RESUMED)
def test_a_run_goes_on_bit_for_bit_from_the_middle_of_a_cycle(rule, at, kind):
    model = net(kind)
    opt = sharp(rule, model)
    torch.manual_seed(3)
    for t in range(at):
        opt.step(batch(seed=t))
    resumed = net(kind, seed=9)
    resumed.load_state_dict(copy.deepcopy(model.state_dict()))
    again = sharp(rule, resumed, seed=5)  # its own seed must not matter
    again.load_state_dict(copy.deepcopy(opt.state_dict()))
    ends = []
    for one, its in ((opt, model), (again, resumed)):
        torch.manual_seed(4)
        reports = [one.step(batch(seed=t)) for t in range(at, at + 6)]
        ends.append((everything(its, one), [(r.perturbed, bits(dict(r.notes))) for r in reports]))
    assert ends[0] == ends[1]


# ---------------------------------------------------------------------- a radius that follows the learning rate


def radii(base, schedule, steps, rule="gsam:rho_max=0.5:rho_min=0.1"):
    """How far the model is perturbed on every step, and the learning rate then."""
    model = net()
    optimizer = base(model.parameters())
    scheduler = schedule(optimizer)
    seen = trail(model)
    opt = sharp(rule, model, optimizer)
    found = []
    for t in range(steps):
        rate = optimizer.param_groups[0]["lr"]
        seen.clear()
        opt.step(batch(seed=t))
        found.append((joint_norm([b - a for a, b in zip(seen[0], seen[1], strict=True)]), rate))
        scheduler.step()
    return found


def descent(params):
    return torch.optim.SGD(params, lr=0.4, momentum=0.9)


def test_rho_follows_a_cosine_between_its_ends():
    found = radii(descent, lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=20), 21)
    for t, (rho, rate) in enumerate(found):
        assert rate == pytest.approx(0.2 * (1 + math.cos(math.pi * t / 20)), abs=1e-12)
        assert rho == pytest.approx(0.1 + 0.4 * rate / 0.4, rel=1e-10)
    assert [found[t][0] for t in (0, 10, 20)] == [pytest.approx(rho, rel=1e-9) for rho in (0.5, 0.3, 0.1)]


def test_rho_stays_between_its_ends_while_the_rate_warms_up():
    """From a rate of zero to beyond the peak that the scheduler started from."""
    factors = [0.0, 0.1, 0.5, 1.0, 1.5, 3.0, 0.2]
    found = radii(descent, lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda t: factors[min(t, 6)]), 7)
    assert [rate for _, rate in found] == pytest.approx([0.4 * f for f in factors])
    assert [rho for rho, _ in found] == pytest.approx([0.1 + 0.4 * min(1, f) for f in factors], rel=1e-9)


@pytest.mark.parametrize("base", [descent, lambda ps: torch.optim.AdamW(ps, lr=0.4)])
def test_rho_peaks_where_one_cycle_does(base):
    """The scheduler starts at a 25th of its peak, and overwrites the rate that the base was built with."""
    one_cycle = lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.02, total_steps=22)  # noqa: E731
    found = radii(base, one_cycle, 20)
    assert [rho for rho, _ in found] == [pytest.approx(0.1 + 0.4 * rate / 0.02, rel=1e-9) for _, rate in found]
    assert all(0.1 - 1e-12 <= rho <= 0.5 + 1e-12 for rho, _ in found)
    assert found[0][0] == pytest.approx(0.1 + 0.4 / 25, rel=1e-9)
    assert max(rho for rho, _ in found) == pytest.approx(0.5, abs=0.02)


def test_rho_is_at_its_peak_without_a_schedule_and_at_one_end_where_both_are_equal():
    flat = SimpleNamespace(step=lambda: None)
    assert [rho for rho, _ in radii(descent, lambda o: flat, 3)] == pytest.approx([0.5] * 3, rel=1e-9)
    cosine = lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=4)  # noqa: E731
    for rule in ("gsam:rho=0.2", "gsam:rho_max=0.2:rho_min=0.2"):
        assert [rho for rho, _ in radii(descent, cosine, 5, rule)] == pytest.approx([0.2] * 5, rel=1e-9)


def test_rho_follows_the_rate_in_a_union_with_a_gate():
    cosine = lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=6)  # noqa: E731
    found = radii(descent, cosine, 6, "ae-sam+gsam:rho_max=0.5:rho_min=0.1:lam1=-4:lam2=-4")
    assert [rho for rho, _ in found] == [pytest.approx(0.1 + rate, rel=1e-9) for _, rate in found]


@pytest.mark.parametrize("text", ["gsam:rho_max=0.1:rho_min=0.2", "gsam:rho_max=0.05", "gsam:rho_min=-0.1"])
def test_radii_that_cannot_be_are_refused(text):
    with pytest.raises(UsageError, match="rho_m"):
        parse(text)


# ---------------------------------------------------------------------- shards


def shard_gradients(model, x, y, sizes, rho):
    """sum_i (|S_i| / b) grad L(S_i; w + rho g_i / ||g_i||) over contiguous shards of these sizes."""
    before = weights(model)
    total = [torch.zeros_like(w) for w in before]
    at = 0
    for size in sizes:
        part = x[at : at + size], y[at : at + size]
        at += size
        g = gradient(model, *part)
        there = [w + rho * v / (joint_norm(g) + 1e-12) for w, v in zip(before, g, strict=True)]
        for t, h in zip(total, gradient(model, *part, at=there), strict=True):
            t += size / len(x) * h
    return total


@pytest.mark.parametrize(
    ("size", "m", "sizes"),
    [
        *[(8, 4, (2, 2, 2, 2)), (8, 3, (3, 3, 2)), (7, 4, (2, 2, 2, 1)), (5, 4, (2, 1, 1, 1)), (5, 2, (3, 2))],
        *[(4, 4, (1, 1, 1, 1)), (3, 4, (1, 1, 1)), (1, 4, (1,)), (2, 100, (1, 1)), (8, 1, (8,))],
    ],
)
def test_every_shard_has_its_own_perturbation_and_its_share_of_the_update(size, m, sizes):
    """Also where the batch does not divide into m, or is smaller than m."""
    x, y = batch(size)
    model = net()
    expected = shard_gradients(model, x, y, sizes, 0.3)
    before, fed = weights(model), []
    hook = model.register_forward_pre_hook(lambda _, args: fed.append(args[0].clone()))
    report = sharp(f"msam:rho=0.3:m={m}", model, torch.optim.SGD(model.parameters(), lr=1.0)).step((x, y))
    hook.remove()
    moved = [a - b for a, b in zip(before, weights(model), strict=True)]
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-12)
    assert [len(f) for f in fed[::2]] == [len(f) for f in fed[1::2]] == list(sizes)  # each clean, then perturbed
    for passes in (fed[::2], fed[1::2]):
        assert torch.equal(torch.cat(passes), x)  # contiguous, in order, every sample once
    assert report.gradients == pytest.approx(2, abs=1e-12)
    assert (report.forward_samples, report.backward_samples) == (2 * size, 2 * size)
    assert float(report.loss) == pytest.approx(float(F.cross_entropy(copy.deepcopy(net())(x), y).detach()), abs=1e-12)
    assert report.outputs.shape == (size, 3)


def test_batch_norm_keeps_the_statistics_of_every_clean_shard():
    x, y = batch(8)
    model, twin = net("batch-norm"), net("batch-norm")
    sharp("msam:m=3", model).step((x, y))
    for part in (x[:3], x[3:6], x[6:]):
        twin(part)
    assert bits(dict(model.named_buffers())) == bits(dict(twin.named_buffers()))


def test_looksam_remembers_a_direction_for_every_shard():
    """A smaller batch leaves the later shards' directions, and their age, as they are."""
    opt = sharp("msam+looksam:rho=0.1:m=3:k=4", net())
    opt.step(batch(9))
    memory = opt.state_dict()["memory"]
    assert {key for key in memory if key.endswith("looksam.v")} == {f"{i}/looksam.v" for i in range(3)}
    opt.step(batch(2, seed=1))
    opt.step(batch(9, seed=2))
    assert [opt.state_dict()["memory"][f"{i}/looksam.age"] for i in range(3)] == [2, 2, 1]


def test_a_closure_cannot_be_cut():
    model = net()
    opt = sharp("msam", model)
    with pytest.raises(UsageError, match="closure"):
        opt.step(lambda: None)


def test_k_and_m_and_p_out_of_range_are_refused():
    for text in ("looksam:k=0", "looksam:k=-1", "msam:m=0", "ss-sam:p=1.1", "ss-sam:p=-0.1", "ae-sam:delta=1"):
        with pytest.raises(UsageError, match="allowed is"):
            parse(text)
    for text in ("vasso:theta=0", "vasso:theta=1.1", "looksam:alpha=-1", "gnp:alpha=-1", "gsam:alpha=-1"):
        with pytest.raises(UsageError, match="allowed is"):
            parse(text)
    for text in ("bisam-tanh:mu=0", "bisam-tanh:alpha=0", "bisam-log:mu=-1", "fisher-sam:eta=-1", "ae-sam:lam1=nan"):
        with pytest.raises(UsageError, match="allowed is"):
            parse(text)
    with pytest.raises(UsageError, match="k is 0"):
        Every(0)

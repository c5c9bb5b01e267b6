"""When the recipes perturb, and what the steps between cost."""

import copy
import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sharpkit import parse
from sharpkit.core.parts import Bernoulli, Every
from sharpkit.errors import UsageError
from tests.core.support import batch, bits, everything, joint_norm, net, sharp, trail, weights


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


# ---------------------------------------------------------------------- refused


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

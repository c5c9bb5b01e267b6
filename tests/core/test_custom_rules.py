"""Variants that sharpkit does not ship, written by a user from the public parts, against their equations."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from sharpkit import RECIPES, Rule, parse
from sharpkit.core import parts, vec
from sharpkit.core.slots import Descent, Filter, Mask, Radius
from tests.core.support import batch, bits, everything, gradient, joint_norm, net, sharp, weights

STEPS, LR, RHO = 5, 0.1, 0.5


@dataclass(frozen=True)
class Surrogate(Descent):
    """GSAM: u = h - alpha g_perp, with g_perp the part of g orthogonal to h."""

    alpha: float

    def perturbed(self, step, there):
        g, h = step.here.grad, there.grad
        along = vec.dot(g, h) / vec.dot(h, h)
        return vec.sub(h, vec.scale(vec.sub(g, vec.scale(h, along)), self.alpha))

    def plain(self, step):
        return step.here.grad


@dataclass(frozen=True)
class Smoothed(Filter):
    """VaSSO: d_t = (1 - theta) d_{t-1} + theta g_t, d_0 = g_0."""

    theta: float

    def apply(self, step, direction):
        key = "vasso.d"
        d = vec.lerp(step.memory[key], direction, self.theta) if key in step.memory else vec.clone(direction)
        step.memory[key] = d
        return d


@dataclass(frozen=True)
class NormLayers(Mask):
    """SAM-ON: perturb the affine parameters of normalisation layers, at full radius."""

    names: frozenset[str]
    inside = True

    def apply(self, step, v):
        return [t if name in self.names else torch.zeros_like(t) for name, t in zip(step.names, v, strict=True)]


@dataclass(frozen=True)
class Growing(Radius):
    """rho_t = rho (1 + t)."""

    rho: float

    def at(self, step):
        return self.rho * (1 + step.clock.step)


def by_hand(kind, direction, descent, radius=lambda t: RHO):
    """Plain SGD on copies: eps_t = radius(t) d_t / ||d_t||, u_t = descent(g_t, h_t)."""
    w = weights(net(kind))
    for t in range(STEPS):
        g = gradient(net(kind), *batch(seed=t), at=w)
        d = direction(t, g)
        there = [a + radius(t) * b / joint_norm(d) for a, b in zip(w, d, strict=True)]
        h = gradient(net(kind), *batch(seed=t), at=there)
        w = [a - LR * b for a, b in zip(w, descent(g, h), strict=True)]
    return w


def run(rule, kind="mlp"):
    model = net(kind)
    opt = sharp(rule, model, torch.optim.SGD(model.parameters(), lr=LR))
    for t in range(STEPS):
        opt.step(batch(seed=t))
    return weights(model)


def agree(got, expected):
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-11)


def test_gsam():
    def surrogate(g, h):
        g_flat, h_flat = (torch.cat([t.flatten() for t in v]) for v in (g, h))
        across = g_flat - (g_flat @ h_flat) / (h_flat @ h_flat) * h_flat
        parts_of_u = (h_flat - 0.4 * across).split([t.numel() for t in g])
        return [u.reshape(t.shape) for u, t in zip(parts_of_u, g, strict=True)]

    rule = parse(f"sam:rho={RHO}") + Rule("gsam", descent=Surrogate(0.4))
    agree(run(rule), by_hand("mlp", lambda t, g: g, surrogate))


def test_gsam_without_surrogate_is_sam():
    agree(run(Rule("gsam", descent=Surrogate(0.0), radius=parts.Constant(RHO))), run(f"sam:rho={RHO}"))


class Average:
    def __init__(self, theta):
        self.theta, self.d = theta, None

    def __call__(self, t, g):
        old = g if self.d is None else self.d
        self.d = [(1 - self.theta) * a + self.theta * b for a, b in zip(old, g, strict=True)]
        return self.d


@pytest.mark.parametrize("theta", [0.2, 0.9])
def test_vasso(theta):
    rule = Rule("vasso", filter=Smoothed(theta), radius=parts.Constant(RHO))
    agree(run(rule), by_hand("mlp", Average(theta), lambda g, h: h))


def test_vasso_with_theta_one_is_sam():
    assert bits(run(Rule("vasso", filter=Smoothed(1.0), radius=parts.Constant(RHO)))) == bits(run(f"sam:rho={RHO}"))


def test_sam_on():
    model = net("batch-norm")
    norms = [(where, m) for where, m in model.named_modules() if isinstance(m, nn.BatchNorm1d)]
    names = frozenset(f"{where}.{name}" for where, m in norms for name, _ in m.named_parameters())
    inside = [name in names for name, _ in model.named_parameters()]
    assert sum(inside) == 2

    def norm_part(t, g):
        return [v if kept else torch.zeros_like(v) for kept, v in zip(inside, g, strict=True)]

    rule = Rule("sam-on", masks=(NormLayers(names),), radius=parts.Constant(RHO))
    agree(run(rule, "batch-norm"), by_hand("batch-norm", norm_part, lambda g, h: h))


def test_a_schedule_of_the_radius():
    rule = Rule("growing", radius=Growing(0.1))
    agree(run(rule), by_hand("mlp", lambda t, g: g, lambda g, h: h, radius=lambda t: 0.1 * (1 + t)))


def test_custom_rules_unite_with_shipped_ones_in_any_order():
    vasso = Rule("vasso", filter=Smoothed(0.3))
    for pair in (("asam", vasso), ("sampa", vasso), ("sampa", Rule("x", masks=(NormLayers(frozenset({"0.weight"})),)))):
        a, b = RECIPES[pair[0]](), pair[1]
        assert bits(run(a + b)) == bits(run(b + a))
        assert bits(run(a + b)) != bits(run(a))


def test_the_memory_of_a_custom_part_is_saved_and_resumed(tmp_path):
    rule = Rule("vasso", filter=Smoothed(0.3), shards=2)
    model = net()
    opt = sharp(rule, model)
    opt.step(batch(seed=0))
    torch.save([model.state_dict(), opt.state_dict()], tmp_path / "state.pt")
    opt.step(batch(seed=1))
    resumed = net(seed=5)
    again = sharp(rule, resumed)
    states = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed.load_state_dict(states[0])
    again.load_state_dict(states[1])
    again.step(batch(seed=1))
    assert everything(resumed, again) == everything(model, opt)


def test_notes_and_tallies_of_a_part_reach_the_report_and_the_counters():
    class Telling(parts.Climbed):
        def perturbed(self, step, there):
            step.note("cosine", vec.dot(step.here.grad, there.grad) / vec.norm(there.grad) / vec.norm(step.here.grad))
            step.tally("odd", torch.tensor(step.clock.step % 2 == 1))
            return there.grad

    model = net()
    opt = sharp(Rule("telling", descent=Telling(), radius=parts.Constant(0.0)), model)
    assert opt.step(batch()).notes["cosine"].item() == pytest.approx(1.0)
    opt.step(batch())
    assert opt.counters()["odd"] == 1


def test_several_objectives_from_one_forward_pass():
    """A part may ask for gradients of other losses of the same outputs: forward is counted once, backward twice."""

    def energy(outputs, batch):
        return (outputs**2).sum(1)

    class Mixed(parts.Climbed):
        def plain(self, step):
            own, other = step.here.gradients(None, energy)
            return vec.add(own, other, alpha=0.5)

    model, twin = net(), net()
    rule = Rule("mixed", gate=parts.Never(), descent=Mixed())
    report = sharp(rule, model, torch.optim.SGD(model.parameters(), lr=1.0)).step(batch())
    x, y = batch()
    loss = nn.functional.cross_entropy(twin(x), y) + 0.5 * (twin(x) ** 2).sum(1).mean()
    g = torch.autograd.grad(loss, list(twin.parameters()))
    agree([a - b for a, b in zip(weights(twin), weights(model), strict=True)], list(g))
    assert (report.forward_samples, report.backward_samples, report.gradients) == (8, 16, 2)


def test_a_point_that_is_asked_twice_runs_forward_twice_but_moves_buffers_once():
    class Hesitant(parts.Climbed):
        def plain(self, step):
            assert step.here.forward().loss.dim() == 0
            return step.here.grad

    model, twin = net("batch-norm"), net("batch-norm")
    report = sharp(Rule("hesitant", gate=parts.Never(), descent=Hesitant()), model).step(batch())
    sharp("sgd", twin).step(batch())
    assert bits(model.state_dict()) == bits(twin.state_dict())
    assert (report.forward_samples, report.backward_samples) == (16, 8)

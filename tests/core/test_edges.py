"""Corners that users reach: home-made layers, idle parameters, hooks, late unfreezing, steps that raise."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook

from sharpkit import Rule, parse
from sharpkit.core import parts, slots, vec
from sharpkit.core.memory import Memory
from sharpkit.errors import UsageError
from tests.core.support import batch, bits, everything, gradient, net, sharp, trail, weights


def test_memory_get():
    assert Memory().get("x", 3) == 3


def test_gate_is_asked_once_for_all_shards():
    asked = []

    class Curious(slots.Gate):
        def perturbs(self, step):
            asked.append(vec.flatten(step.here.grad))
            return len(asked) % 2 == 1

    model = net()
    opt = sharp(Rule("x", gate=Curious(), shards=3), model)
    for t in range(4):
        expected = vec.flatten(gradient(model, *batch(seed=t)))
        report = opt.step(batch(seed=t))
        torch.testing.assert_close(asked[-1], expected, rtol=0, atol=1e-14)
        assert (report.perturbed, report.gradients) == ((True, 2.0) if t % 2 == 0 else (False, 1.0))
    assert len(asked) == 4


class Reassigning(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(4, dtype=torch.float64))

    def forward(self, x):
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return x


def test_buffer_replaced_by_forward_is_frozen_too():
    def build():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 4), Reassigning(), nn.Linear(4, 3)).double()

    model, twin = build(), build()
    sharp("sam:rho=1", model).step(batch())
    twin(batch()[0])
    assert torch.equal(model[1].mean, twin[1].mean)


def test_rule_that_never_asks_the_clean_point():
    class Fixed(slots.Ascent):
        def direction(self, step):
            return [torch.ones_like(p) for p in step.params]

    model = net("batch-norm")
    seen = trail(model)
    report = sharp(Rule("x", ascent=Fixed()), model).step(batch())
    assert len(seen) == 1 or bits(seen[-1]) != bits(weights(model)), "the clean pass ran after the base step"
    assert report.backward_samples == 8 * report.gradients


def test_sampa_lam_0_survives_one_bad_q():
    model = net()
    opt = sharp("sampa:lam=0", model)
    opt.step(batch(seed=0))
    state = opt.state_dict()
    memory = state["memory"]
    broken = {k: [torch.full_like(q, float("inf")) for q in v] if k.endswith("q") else v for k, v in memory.items()}
    opt.load_state_dict({**state, "memory": broken})
    for t in (1, 2):
        opt.step(batch(seed=t))
    assert all(p.isfinite().all() for p in model.parameters())


def test_overflow_flag_of_a_step_that_raised():
    calls = []

    def loss(o, t, reduction):
        calls.append(1)
        if len(calls) == 2:
            raise ZeroDivisionError
        return F.cross_entropy(o, t, reduction=reduction) * (1e6 if len(calls) == 1 else 1e-3)

    opt = sharp("sam", net(dtype=torch.float32), loss=loss, precision="fp16")
    b = batch(dtype=torch.float32)
    with pytest.raises(ZeroDivisionError):
        opt.step(b)
    assert not opt.step(b).dropped


def test_step_inside_no_grad():
    with torch.no_grad():
        sharp("sam", net()).step(batch())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_norm_of_long_half_vectors(dtype):
    v = torch.randn(11_000_000, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert float(vec.norm([v])) == pytest.approx(float(v.double().norm()), rel=1e-6)


def test_global_hooks_do_not_see_the_peek():
    calls = []
    handle = register_optimizer_step_post_hook(lambda *_: calls.append(1))
    try:
        opt = sharp("sampa", net())
        for t in range(3):
            opt.step(batch(seed=t))
    finally:
        handle.remove()
    assert len(calls) == 3


def test_peek_leaves_idle_parameters_where_the_base_would():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = net(), nn.Linear(4, 3).double()

        def forward(self, x):
            return self.used(x)

    model = Two()
    seen = []
    model.register_forward_pre_hook(lambda m, _: seen.append(m.idle.weight.detach().clone()))
    opt = sharp("sampa", model, torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.5))
    for t in range(2):
        opt.step(batch(seed=t))
    # the perturbation of an idle parameter is 0, and Base skips it, so y = w there
    assert torch.equal(seen[2], seen[0])


def test_empty_batch_is_a_usage_error():
    with pytest.raises(UsageError):
        sharp("sam", net()).step(batch(0))


def test_repeated_key():
    with pytest.raises(UsageError):
        parse("sam:rho=0.1:rho=0.2")


def test_gradients_of_parameters_that_the_base_does_not_hold_stay_away():
    model = net()
    opt = sharp("sam", model, torch.optim.SGD(model[-1].parameters(), lr=0.0))
    opt.step(batch())
    assert model[0].weight.grad is None


def test_unfreezing_after_the_optimizer_was_built_is_training_from_then_on():
    model, twin = net(), net()
    model[0].requires_grad_(False)
    opt = sharp("sam", model, torch.optim.SGD(model.parameters(), lr=0.1))
    opt.step(batch())
    assert bits(weights(model[0])) == bits(weights(twin[0]))
    model[0].requires_grad_(True)
    opt.step(batch())
    assert all(not torch.equal(a, b) for a, b in zip(weights(model[0]), weights(twin[0]), strict=True))


def test_an_optimizer_copied_with_its_model_follows_the_copy():
    model = net()
    opt = sharp("sampa", model)
    opt.step(batch(seed=0))
    twin, other = copy.deepcopy((model, opt))
    kept = bits(weights(model))
    for each in (model, twin):
        each[0].requires_grad_(False)
    other.step(batch(seed=1))
    assert bits(weights(model)) == kept
    opt.step(batch(seed=1))
    assert everything(model, opt) == everything(twin, other)


def test_freezing_later_leaves_the_parameter_alone():
    model = net()
    opt = sharp("sam", model, torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1))
    opt.step(batch())
    model[0].requires_grad_(False)
    before = bits([model[0].weight])
    opt.step(batch())
    assert bits([model[0].weight]) == before


def test_generator_after_a_step_that_raised():
    n = []

    def loss(o, t, reduction):
        n.append(1)
        if len(n) == 1:
            raise ZeroDivisionError
        return F.cross_entropy(o, t, reduction=reduction)

    opt = sharp(Rule("x", gate=parts.Bernoulli(0.5)), net(), loss=loss)
    before = opt.state_dict()["generator"].clone()
    with pytest.raises(ZeroDivisionError):
        opt.step(batch())
    assert torch.equal(opt.state_dict()["generator"], before)


def test_what_chooses_samples_of_the_whole_batch_refuses_shards():
    with pytest.raises(UsageError, match=r"esam needs whole_batch, which was not given \(use shards=1"):
        sharp(replace(parse("esam"), shards=2), net())


def test_sampa_starts_anew_where_the_number_of_shards_changes():
    """A last batch may have fewer samples than there are shards."""
    opt = sharp("sampa+msam:m=4:rho=0.1", net())
    perturbed = [opt.step(batch(size)).perturbed for size in (8, 8, 3, 8, 8)]
    assert perturbed == [False, True, False, False, True]


def test_state_in_memory_is_not_shared_by_two_optimizers():
    a, b = sharp("sam", net()), sharp("sam", net())
    a.step(batch())
    b.load_state_dict(a.state_dict())
    before = bits(a.state_dict()["base"]["state"])
    b.step(batch())
    assert bits(a.state_dict()["base"]["state"]) == before

"""Checkpoints, needs, shards, and the optimizer as an object."""

import pytest
import torch
from torch.nn import functional as F

from sharpkit import RECIPES, Rule, SharpnessAware, Supervised, parse
from sharpkit.core import parts
from sharpkit.errors import InputError, UsageError
from tests.core.support import batch, bits, everything, gradient, joint_norm, net, numbered, sharp, trail, weights

BASES = {
    "momentum": lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adamw": lambda ps: torch.optim.AdamW(ps, lr=0.01),
}


@pytest.mark.parametrize("options", [{}, {"accumulate": 2, "clip": 0.1}, {"precision": "fp16"}], ids=str)
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("rule", [*RECIPES, "sampa+asam", "gated"])
def test_a_run_resumes_bit_for_bit_from_its_file(rule, base, options, tmp_path):
    def fresh():
        stated = Rule("gated", gate=parts.Bernoulli(0.5)) if rule == "gated" else rule
        model = net("dropout", dtype=torch.float32)
        return model, sharp(stated, model, BASES[base](model.parameters()), seed=3, **options)

    def steps(opt, first, last):
        for t in range(first, last):
            torch.manual_seed(t)  # the global stream is the caller's to restore
            opt.step(numbered(16, seed=t, dtype=torch.float32))

    model, opt = fresh()
    steps(opt, 0, 3)
    torch.save({"model": model.state_dict(), "optimizer": opt.state_dict()}, tmp_path / "ckpt.pt")
    steps(opt, 3, 6)

    resumed, again = fresh()
    state = torch.load(tmp_path / "ckpt.pt", weights_only=True)
    resumed.load_state_dict(state["model"])
    again.load_state_dict(state["optimizer"])
    steps(again, 3, 6)
    assert everything(resumed, again) == everything(model, opt)
    assert again.counters()["steps"] == 6


def test_a_stored_state_is_not_changed_by_later_steps():
    opt = sharp("sampa", net())
    opt.step(batch(seed=0))
    memory = opt.state_dict()["memory"]
    before = bits(memory)
    opt.step(batch(seed=1))
    assert bits(memory) == before


def test_another_rules_state_is_refused_and_nothing_is_loaded():
    model = net()
    opt = sharp("sam", model)
    opt.step(batch())
    before = everything(model, opt)
    with pytest.raises(InputError, match="the optimizer state is of rule 'sampa', this optimizer's rule is 'sam'"):
        opt.load_state_dict(sharp("sampa", net()).state_dict())
    assert everything(model, opt) == before


@pytest.mark.parametrize("rule", ["sampa", "sampa+asam"])
def test_a_rule_that_needs_the_batch_refuses_a_closure(rule):
    model = net()
    opt = sharp(rule, model)
    before = everything(model, opt)
    with pytest.raises(UsageError, match=r"needs batch, which was not given \(call opt\.step\(\(inputs, targets\)\)"):
        opt.step(lambda: F.cross_entropy(model(batch()[0]), batch()[1]))
    assert everything(model, opt) == before


def test_declared_needs_are_checked_before_anything_moves():
    class Clocked(parts.Always):
        needs = frozenset({"total_steps", "steps_per_epoch", "indices"})

        def perturbs(self, step):
            clocks.append((step.clock.progress, step.clock.epoch))
            return True

    clocks = []
    rule = Rule("clocked", gate=Clocked())
    with pytest.raises(UsageError, match="clocked needs steps_per_epoch"):
        sharp(rule, net(), total_steps=4, steps_per_epoch=None)
    with pytest.raises(UsageError, match="clocked needs total_steps"):
        sharp(rule, net(), total_steps=None, steps_per_epoch=4)
    opt = sharp(rule, net(), total_steps=4, steps_per_epoch=3)
    with pytest.raises(UsageError, match=r"needs indices.*opt\.step\(\(inputs, targets, indices\)\)"):
        opt.step(batch())
    for _ in range(4):
        opt.step((*batch(), torch.arange(8)))
    assert clocks == [(0.0, 0), (0.25, 0), (0.5, 0), (0.75, 1)]


def test_a_rule_object_serves_in_place_of_its_string():
    models = [net(), net(), net()]
    rules = ["sampa+asam:rho=0.3", parse("sampa+asam:rho=0.3"), RECIPES["sampa"](0.3) + RECIPES["asam"](0.3)]
    for rule, model in zip(rules, models, strict=True):
        opt = sharp(rule, model)
        for t in range(3):
            opt.step(batch(seed=t))
    assert bits(weights(models[0])) == bits(weights(models[1])) == bits(weights(models[2]))


def test_a_task_serves_in_place_of_the_loss():
    model, twin = net(), net()
    SharpnessAware(
        model, torch.optim.SGD(model.parameters(), lr=0.1), "sam", loss=Supervised(model, F.cross_entropy)
    ).step(batch())
    sharp("sam", twin, torch.optim.SGD(twin.parameters(), lr=0.1)).step(batch())
    assert bits(weights(model)) == bits(weights(twin))


@pytest.mark.parametrize("size", [8, 7])
def test_two_shards_are_the_weighted_mean_of_two_sams(size):
    """mSAM by hand: every shard climbs its own gradient; shares are 4/8 + 4/8, or 4/7 + 3/7."""
    model = net()
    x, y = batch(size)
    w, expected = weights(model), [torch.zeros_like(p) for p in model.parameters()]
    cut = (size + 1) // 2
    for rows in (slice(0, cut), slice(cut, size)):
        g = gradient(net(), x[rows], y[rows])
        there = [a + 0.5 * b / joint_norm(g) for a, b in zip(w, g, strict=True)]
        h = gradient(net(), x[rows], y[rows], at=there)
        expected = [e + len(y[rows]) / size * b for e, b in zip(expected, h, strict=True)]
    rule = Rule("m-sam", radius=parts.Constant(0.5), shards=2)
    report = sharp(rule, model, torch.optim.SGD(model.parameters(), lr=1.0)).step((x, y))
    moves = [a - b for a, b in zip(w, weights(model), strict=True)]
    torch.testing.assert_close(moves, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(report.outputs, net()(x).detach(), rtol=0, atol=1e-14)
    assert report.loss.item() == pytest.approx(F.cross_entropy(net()(x), y).item(), rel=1e-12)
    assert (report.forward_samples, report.backward_samples) == (2 * size, 2 * size)
    assert report.gradients == pytest.approx(2)


def test_shards_refuse_a_closure():
    opt = sharp(Rule("m-sam", shards=3), net())
    with pytest.raises(UsageError, match="a closure cannot be cut into 3 shards"):
        opt.step(lambda: torch.zeros(()))


def test_a_batch_smaller_than_the_shards_is_cut_into_samples():
    """The last batch of an epoch may be."""
    ends = []
    for shards in (2, 5):
        model = net()
        sharp(Rule("m-sam", shards=shards), model).step(batch(2))
        ends.append(bits(weights(model)))
    assert ends[0] == ends[1]


def test_the_gradient_handed_to_the_base_stays_to_be_looked_at():
    model = net()
    opt, seen = sharp("sam:rho=0.5", model), trail(model)
    opt.step(batch())
    h = gradient(net(), *batch(), at=seen[1])
    torch.testing.assert_close([p.grad for p in model.parameters()], h, rtol=0, atol=1e-14)
    opt.zero_grad()
    assert all(p.grad is None for p in model.parameters())
    assert opt.param_groups is opt.base.param_groups

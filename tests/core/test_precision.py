"""Autocast and the loss scale: what rules see, and steps that overflow."""

from dataclasses import dataclass

import pytest
import torch
from torch.nn import functional as F

from sharpkit.errors import DivergedError, UsageError
from tests.core.support import batch, bits, everything, joint_norm, net, sharp, trail, weights

SCALE = 2.0**16
RULES = ["sgd", "sam:rho=0.5", "asam:rho=0.5", "sampa:rho=0.5"]
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def narrow(size=8, seed=0):
    return batch(size, seed, dtype=torch.float32)


def times(factor):
    return lambda outputs, targets, reduction: factor * F.cross_entropy(outputs, targets, reduction=reduction)


def by_hand(w, precision, x, y):
    """The gradient of a copy under torch's autocast, its loss scaled by S as in every fp16 recipe, then unscaled."""
    model, scale = net(dtype=torch.float32), SCALE if precision == "fp16" else 1.0
    for p, value in zip(model.parameters(), w, strict=True):
        p.data.copy_(value)
    with torch.autocast("cpu", dtype=TYPES[precision]):
        loss = F.cross_entropy(model(x), y, reduction="none").sum() / len(y)
    return [g / scale for g in torch.autograd.grad(loss * scale, list(model.parameters()))]


@pytest.mark.parametrize("precision", TYPES)
def test_a_sam_step_is_the_one_of_autocast_written_by_hand(precision):
    model = net(dtype=torch.float32)
    w = weights(model)
    g = by_hand(w, precision, *narrow())
    h = by_hand([a + 0.5 * b / joint_norm(g) for a, b in zip(w, g, strict=True)], precision, *narrow())
    opt = sharp("sam:rho=0.5", model, torch.optim.SGD(model.parameters(), lr=0.1), precision=precision)
    report = opt.step(narrow())
    assert report.outputs.dtype == TYPES[precision]
    assert all(p.dtype == torch.float32 for p in model.parameters())
    # A last-bit difference of the perturbation moves single roundings to half precision in the second pass.
    torch.testing.assert_close(weights(model), [a - 0.1 * b for a, b in zip(w, h, strict=True)], rtol=0, atol=2e-4)
    exact = [a - 0.1 * b for a, b in zip(w, by_hand(w, precision, *narrow()), strict=True)]
    sgd = net(dtype=torch.float32)
    sharp("sgd", sgd, torch.optim.SGD(sgd.parameters(), lr=0.1), precision=precision).step(narrow())
    torch.testing.assert_close(weights(sgd), exact, rtol=0, atol=1e-7)


@pytest.mark.parametrize("precision", TYPES)
@pytest.mark.parametrize("rule", RULES[1:])
def test_perturbations_are_those_of_full_precision(rule, precision):
    """So the gradients that rules see are unscaled: relative to ||eps|| = 0.5 only rounding is left."""
    seen = {}
    for mode in ("off", precision):
        model = net(dtype=torch.float32)
        path, opt = trail(model), sharp(rule, model, precision=mode)
        for t in range(2):
            opt.step(narrow(seed=t))
        seen[mode] = [b - a for a, b in zip(path[0], path[1], strict=True)]
    off = joint_norm([a - b for a, b in zip(seen["off"], seen[precision], strict=True)])
    assert off < 0.02 * joint_norm(seen["off"])


@pytest.mark.parametrize("rule", RULES)
def test_the_scale_is_invisible(rule):
    """A power of two cancels exactly, so runs at S and S / 4 agree bit for bit, memory included."""
    ends = []
    for scale in (SCALE, SCALE / 4):
        model = net(dtype=torch.float32)
        opt = sharp(rule, model, precision="fp16")
        opt.load_state_dict({**opt.state_dict(), "precision": {"scale": scale, "good_steps": 0}})
        for t in range(3):
            opt.step(narrow(seed=t))
        ends.append(bits([weights(model), opt.state_dict()["memory"]]))
        assert opt.state_dict()["precision"] == {"scale": scale, "good_steps": 3}
    assert ends[0] == ends[1]


@dataclass
class Swelling:
    """Cross-entropy that is multiplied by 1e6, too much for fp16 at any usual scale, in the calls that are named."""

    calls: frozenset[int]
    count: int = 0

    def __call__(self, outputs, targets, reduction):
        self.count += 1
        losses = F.cross_entropy(outputs, targets, reduction=reduction)
        return losses * 1e6 if self.count in self.calls else losses


def calls_before(rule, steps):
    return steps if rule == "sgd" else 2 * steps - 1 if rule.startswith("sampa") else 2 * steps


@pytest.mark.parametrize(("rule", "which_pass"), [(r, i) for r in RULES for i in (1, 2) if (r, i) != ("sgd", 2)])
def test_an_overflowing_step_is_dropped_whole(rule, which_pass):
    """Whichever pass overflows. Only the scale, halved, and the counters tell of it."""
    start = 2
    loss = Swelling(frozenset({calls_before(rule, start) + which_pass}))
    model = net("batch-norm", dtype=torch.float32)
    opt = sharp(rule, model, loss=loss, precision="fp16")
    opt.load_state_dict({**opt.state_dict(), "precision": {"scale": 2.0**12, "good_steps": 0}})
    for t in range(start):
        assert not opt.step(narrow(seed=t)).dropped
    before = opt.state_dict()
    kept = bits([model.state_dict(), before["base"], before["memory"]])
    assert opt.step(narrow(seed=9)).dropped
    after = opt.state_dict()
    assert bits([model.state_dict(), after["base"], after["memory"]]) == kept
    assert after["precision"] == {"scale": 2.0**11, "good_steps": 0}
    assert opt.counters()["dropped"] == 1
    assert not opt.step(narrow(seed=9)).dropped
    assert opt.state_dict()["precision"] == {"scale": 2.0**11, "good_steps": 1}


def test_the_scale_falls_until_the_gradient_fits():
    """Of a linear model the only fp16 gradient before the sum over samples is the logits': S dL/dz below 65520."""
    model, (x, y) = net("linear", dtype=torch.float32), narrow(1)
    x.clamp_(-1, 1)  # so that no entry of dL/dW = dL/dz x is larger than those of dL/dz
    with torch.autocast("cpu", dtype=torch.float16):
        logits = model(x).detach().float()
    slope = 1e5 * (logits.softmax(1) - F.one_hot(y, 3)).abs().max().item()
    opt = sharp("sgd", model, loss=times(1e5), precision="fp16")
    dropped = 0
    while opt.step((x, y)).dropped:
        dropped += 1
    assert SCALE / 2**dropped * slope < 65520 <= SCALE / 2 ** (dropped - 1) * slope


def test_the_scale_doubles_after_2000_good_steps():
    opt = sharp("sgd", net(dtype=torch.float32), precision="fp16")
    opt.load_state_dict({**opt.state_dict(), "precision": {"scale": 8.0, "good_steps": 1998}})
    opt.step(narrow())
    assert opt.state_dict()["precision"] == {"scale": 8.0, "good_steps": 1999}
    opt.step(narrow())
    assert opt.state_dict()["precision"] == {"scale": 16.0, "good_steps": 0}


@pytest.mark.parametrize("precision", ["off", "bf16"])
def test_without_a_scale_nothing_is_dropped(precision):
    """Losses are not inspected either: a gradient that is not finite reaches the base optimizer as in a plain loop."""
    model = net(dtype=torch.float32)
    report = sharp(
        "sgd", model, loss=lambda *a, **k: F.cross_entropy(*a, **k) * float("inf"), precision=precision
    ).step(narrow())
    assert not report.dropped
    assert not all(p.isfinite().all() for p in model.parameters())


def test_accumulation_overflows_as_one_step():
    loss = Swelling(frozenset({2}))
    model = net(dtype=torch.float32)
    opt = sharp("sam", model, loss=loss, precision="fp16", accumulate=4)
    before = bits(model.state_dict())
    assert opt.step(narrow()).dropped
    assert loss.count == 8
    assert bits(model.state_dict()) == before


def test_a_closure_cannot_be_mixed_and_modes_are_named():
    model = net(dtype=torch.float32)
    opt = sharp("sam", model, precision="fp16")
    before = everything(model, opt)
    with pytest.raises(UsageError, match="a closure cannot be run in fp16"):
        opt.step(lambda: F.cross_entropy(model(narrow()[0]), narrow()[1]))
    assert everything(model, opt) == before
    with pytest.raises(UsageError, match="precision is 'half', allowed are off, bf16, fp16"):
        sharp("sam", net(), precision="half")


def test_a_step_that_no_scale_can_save_is_divergence():
    """From 2^16 down to 2^-24, the spacing of the smallest float16 numbers, steps are dropped; then it is said."""
    model = net(dtype=torch.float32)
    before = bits(model.state_dict())
    opt = sharp("sam", model, loss=lambda *a, **k: F.cross_entropy(*a, **k) * float("inf"), precision="fp16")
    for _ in range(40):
        assert opt.step(narrow()).dropped
    with pytest.raises(DivergedError, match="overflow in fp16 whatever the loss scale"):
        opt.step(narrow())
    assert bits(model.state_dict()) == before

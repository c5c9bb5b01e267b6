"""Where a base optimizer would step: its own step on a deep copy is the oracle, and nothing of it may change."""

import copy
import itertools

import pytest
import torch
from torch import nn

from sharpkit.core import ahead, vec
from sharpkit.core.ahead import look_ahead
from sharpkit.errors import UsageError
from tests.core.support import batch, bits, gradient, net, sharp, trail, weights


class SignMomentum(torch.optim.Optimizer):
    """A user's optimizer: its state is a tensor, a number and a list, and it refuses a missing gradient."""

    def __init__(self, params, lr=0.01):
        super().__init__(params, {"lr": lr, "count": 0})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["count"] += 1
            for p in group["params"]:
                state = self.state[p]
                state.setdefault("mean", torch.zeros_like(p)).mul_(0.9).add_(p.grad, alpha=0.1)
                state["steps"] = state.get("steps", 0) + 1
                state.setdefault("history", [torch.zeros(())])[0].add_(1)
                p.sub_(group["lr"] * state["mean"].sign() / state["steps"])


BASES = {
    "sgd": lambda ps: torch.optim.SGD(ps, lr=0.1),
    "nesterov": lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "maximize": lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9, weight_decay=1e-2, maximize=True),
    "sgd-tensor-lr": lambda ps: torch.optim.SGD(ps, lr=torch.tensor(0.1), momentum=0.9, weight_decay=1e-2),
    "sgd-groups": lambda ps: torch.optim.SGD(
        [{"params": ps[:2], "lr": 0.1}, {"params": ps[2:], "momentum": 0.0, "dampening": 0.5}],
        lr=0.2,
        momentum=0.8,
        dampening=0.3,
        weight_decay=1e-2,
    ),
    "no-foreach": lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9, dampening=0.1, foreach=False),
    "adam": lambda ps: torch.optim.Adam(ps, lr=0.01, amsgrad=True, weight_decay=1e-2),
    "adamw": lambda ps: torch.optim.AdamW(ps, lr=0.01),
    "tensor-lr": lambda ps: torch.optim.AdamW(ps, lr=torch.tensor(0.01), foreach=False),
    "rmsprop": lambda ps: torch.optim.RMSprop(ps, lr=0.01, momentum=0.9, centered=True),
    "adagrad": lambda ps: torch.optim.Adagrad(ps, lr=0.1, lr_decay=0.1),
    "custom": SignMomentum,
}


def twins(base):
    model = net()
    opt = BASES[base](list(model.parameters()))
    for t in range(3):
        for p, g in zip(model.parameters(), gradient(model, *batch(seed=t)), strict=True):
            p.grad = g
        opt.step()
    opt.zero_grad()
    return model, opt


@pytest.mark.parametrize("warm", [True, False], ids=["in-mid-run", "first-step"])
@pytest.mark.parametrize("base", BASES)
def test_peek_is_the_optimizers_own_step_and_changes_nothing(base, warm):
    model, opt = twins(base) if warm else (net(), None)
    opt = opt or BASES[base](list(model.parameters()))
    params = list(model.parameters())
    before = bits({"w": weights(model), "state": opt.state_dict()})
    direction = gradient(model, *batch(seed=9))
    offset = look_ahead(opt, params, direction, "peek")
    assert bits({"w": weights(model), "state": opt.state_dict()}) == before
    assert all(p.grad is None for p in params)

    for p, g in zip(params, direction, strict=True):
        p.grad = g
    start = weights(model)
    opt.step()
    torch.testing.assert_close([w + o for w, o in zip(start, offset, strict=True)], weights(model), rtol=0, atol=1e-15)


def stepped(opt, params, direction):
    """Return where a deep copy of the optimizer goes with its own step."""
    twin, copies = copy.deepcopy((opt, params))
    for p, d in zip(copies, direction, strict=True):
        p.grad = None if d is None else d.clone()
    twin.step()
    return [q.detach() - p.detach() for p, q in zip(params, copies, strict=True)]


def adam(decay, amsgrad, maximize, variant):
    """Two groups of four tensors, one with the channels last."""
    generator = torch.Generator().manual_seed(1)
    shapes = [(3, 4), (3,), (5, 2, 3, 3), ()]
    params = [nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64)) for s in shapes]
    params[2].data = params[2].data.to(memory_format=torch.channels_last)
    options = {"weight_decay": 0.0 if decay == "none" else 0.3, "amsgrad": amsgrad, "maximize": maximize, **variant}
    made = torch.optim.AdamW if decay == "decoupled" else torch.optim.Adam
    groups = [{"params": params[:2], "betas": (0.7, 0.9), "eps": 1e-3}, {"params": params[2:], "lr": 0.2}]
    return made(groups, lr=0.1, **options), params


def noise_like(p, generator):
    """Return noise in the memory format of the parameter; torch's fused step takes any other for it."""
    return torch.empty_like(p, requires_grad=False).copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype))


def run(opt, params, steps, generator):
    """Take some steps with gradients that shrink, of which the first does not reach the second tensor."""
    for t in range(steps):
        for i, p in enumerate(params):
            p.grad = None if (t, i) == (0, 1) else noise_like(p, generator) / (t + 1)
        opt.step()
    opt.zero_grad()


@pytest.mark.parametrize("steps", [0, 1, 4])
@pytest.mark.parametrize("decay", ["none", "coupled", "decoupled"])
def test_the_formula_of_adam_is_its_own_step(decay, steps, monkeypatch):
    """With every option and implementation that torch has; that the numbers come of the formula is checked too."""
    monkeypatch.setattr(ahead, "Double", lambda base: pytest.fail("the state was copied"))
    variants = [{}, {"foreach": True}, {"foreach": False}, {"fused": True}]
    for amsgrad, maximize, variant in itertools.product([False, True], [False, True], variants):
        opt, params = adam(decay, amsgrad, maximize, variant)
        generator = torch.Generator().manual_seed(2)
        run(opt, params, steps, generator)
        direction = [noise_like(p, generator) / 20 for p in params]
        before = bits({"w": params, "state": opt.state_dict(), "direction": direction})
        offset = look_ahead(opt, params, direction, "peek")
        assert bits({"w": params, "state": opt.state_dict(), "direction": direction}) == before
        torch.testing.assert_close(offset, stepped(opt, params, direction), rtol=0, atol=1e-12)
        reached = [True, False, True, True]
        offset = look_ahead(opt, params, direction, "peek", reached)
        some = [d if has else None for d, has in zip(direction, reached, strict=True)]
        torch.testing.assert_close(offset, stepped(opt, params, some), rtol=0, atol=1e-12)


class OtherAdam(torch.optim.Adam):
    """Steps twice as far."""

    def step(self, closure=None):
        super().step()
        super().step()


@pytest.mark.parametrize(
    ("made", "options"),
    [
        (torch.optim.Adam, {"lr": torch.tensor(0.01)}),
        (torch.optim.Adam, {"betas": (torch.tensor(0.9), torch.tensor(0.99)), "foreach": False}),
        (OtherAdam, {}),
        (torch.optim.NAdam, {}),
    ],
)
def test_what_the_formula_does_not_know_is_stepped_on_a_copy(made, options, monkeypatch):
    copies = []
    double = ahead.Double
    monkeypatch.setattr(ahead, "Double", lambda base: copies.append(base) or double(base))
    params = [nn.Parameter(torch.randn(3, 4, dtype=torch.float64))]
    opt = made(params, **options)
    direction = [torch.randn(3, 4, dtype=torch.float64)]
    torch.testing.assert_close(
        look_ahead(opt, params, direction, "peek"), stepped(opt, params, direction), rtol=0, atol=1e-15
    )
    assert copies == [opt]


def test_adam_that_counts_in_tensors_or_has_an_option_of_a_later_version_is_stepped_on_a_copy():
    opt, params = adam("none", False, False, {})
    for option in ("capturable", "differentiable"):
        opt.param_groups[1][option] = True
        assert ahead._formula_of(opt, params) is None
        opt.param_groups[1][option] = False
    assert ahead._formula_of(opt, params) is not None
    opt.defaults["newer"] = True
    assert ahead._formula_of(opt, params) is None


@pytest.mark.parametrize("entries", [1, 7, 100])
def test_blocks_are_all_entries_once(entries, monkeypatch):
    monkeypatch.setattr(vec, "_CACHED", entries)
    a = [torch.arange(24.0).view(6, 4), torch.tensor(24.0), torch.arange(25.0, 61).view(3, 2, 2, 3), torch.zeros(0, 3)]
    a[2] = a[2].to(memory_format=torch.channels_last)
    b = [torch.zeros_like(t) for t in a]
    sizes = []
    for x, y in vec.blocks(a, b):
        vec.copy_(y, x)
        sizes.append(sum(t.numel() for t in x))
    assert bits(a) == bits(b)
    assert sum(sizes) == 61
    assert max(sizes) <= max(2 * entries, 24)


def test_plain_looks_ahead_along_the_direction_with_each_groups_rate():
    model = net()
    groups = [{"params": [p], "lr": 0.1 * (i + 1)} for i, p in enumerate(model.parameters())]
    opt = torch.optim.AdamW(groups, weight_decay=0.5)
    direction = gradient(model, *batch())
    expected = [-0.1 * (i + 1) * d for i, d in enumerate(direction)]
    torch.testing.assert_close(look_ahead(opt, list(model.parameters()), direction, "plain"), expected)


def test_a_step_that_raises_is_told_and_changes_nothing():
    class Broken(torch.optim.SGD):
        def step(self, closure=None):
            super().step()
            raise ZeroDivisionError

    model = net()
    before = weights(model)
    with pytest.raises(UsageError, match="Broken cannot take a step to look ahead: ZeroDivisionError") as raised:
        look_ahead(Broken(model.parameters(), lr=1.0), list(model.parameters()), before, "peek")
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    assert bits(weights(model)) == bits(before)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("y_step", ["peek", "plain"])
def test_the_look_ahead_uses_the_scheduled_rate(y_step):
    model = net()
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    opt, seen = sharp(f"sampa:y_step={y_step}", model, base), trail(model)
    opt.step(batch(seed=0))
    base.param_groups[0]["lr"] = 0.025
    q, w = gradient(net(), *batch(seed=0)), weights(model)
    opt.step(batch(seed=1))
    torch.testing.assert_close(seen[2], [a - 0.025 * b for a, b in zip(w, q, strict=True)], rtol=0, atol=1e-14)

"""What the engine asks of a base optimizer, and what it must never do to it."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpkit.errors import SharpkitWarning, UsageError
from tests.core.support import batch, bits, gradient, net, sharp, trail, weights


@pytest.mark.parametrize("rule", ["sgd", "sam", "sampa"])
def test_hooks_and_schedulers_see_the_real_steps_alone(rule):
    """Warnings are errors here, so a scheduler that thinks it comes before the optimizer would fail the test."""
    model = net()
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    calls = []
    base.register_step_pre_hook(lambda *_: calls.append("pre"))
    scheduler = torch.optim.lr_scheduler.LambdaLR(base, lambda epoch: 0.5**epoch)
    base.register_step_post_hook(lambda *_: calls.append("post"))
    opt = sharp(rule, model, base)
    rates = []
    for t in range(4):
        rates.append(opt.param_groups[0]["lr"])
        opt.step(batch(seed=t))
        scheduler.step()
    assert calls == ["pre", "post"] * 4
    assert rates == [0.1, 0.05, 0.025, 0.0125]


class TwoHeads(nn.Module):
    """The second head never takes part in the loss."""

    def __init__(self):
        super().__init__()
        self.used, self.idle = net(seed=1), nn.Linear(4, 3).double()

    def forward(self, x):
        return self.used(x)


@pytest.mark.parametrize("rule", ["sgd", "sam:rho=1", "asam:rho=1", "sampa:rho=1"])
def test_a_parameter_without_gradient_is_left_alone(rule):
    """As in a plain loop: no weight decay either."""
    model = TwoHeads()
    before = bits(list(model.idle.parameters()))
    opt = sharp(rule, model, torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5))
    for t in range(3):
        opt.step(batch(seed=t))
        assert model.idle.weight.grad is None
    assert bits(list(model.idle.parameters())) == before
    assert set(opt.base.state) == set(model.used.parameters())


@pytest.mark.parametrize("how", ["frozen", "not-held"])
@pytest.mark.parametrize("rule", ["sam:rho=1", "asam:rho=1", "sampa:rho=1"])
def test_what_the_base_does_not_step_is_not_perturbed(rule, how):
    """The first layer stands still in every pass; the rest goes as if the first layer were part of the data."""
    model, rest = net(), net()[1:]
    inputs = {t: net()[0](batch(seed=t)[0]).detach() for t in range(3)}
    for p, q in zip(rest.parameters(), list(model.parameters())[2:], strict=True):
        p.data.copy_(q)
    if how == "frozen":
        model[0].requires_grad_(False)
    held = model.parameters() if how == "frozen" else model[1:].parameters()
    seen = trail(model[0])
    opt, other = sharp(rule, model, torch.optim.SGD(held, lr=0.1)), sharp(rule, rest)
    other.base.param_groups[0].update(momentum=0, weight_decay=0)
    for t in range(3):
        opt.step(batch(seed=t))
        other.step((inputs[t], batch(seed=t)[1]))
    assert all(bits(w) == bits(seen[0]) for w in seen)
    torch.testing.assert_close(weights(rest), weights(model)[2:], rtol=0, atol=1e-13)


def test_every_group_keeps_its_own_settings():
    """One joint ball, but each group's own rate and decay."""
    model = net()
    w, params = weights(model), list(model.parameters())
    groups = [{"params": params[:2], "lr": 0.1, "weight_decay": 0.5}, {"params": params[2:], "lr": 0.01}]
    seen = trail(model)
    sharp("sam:rho=0.5", model, torch.optim.SGD(groups)).step(batch())
    h = gradient(net(), *batch(), at=seen[1])
    expected = [a - 0.1 * (b + 0.5 * a) for a, b in zip(w[:2], h[:2], strict=True)]
    expected += [a - 0.01 * b for a, b in zip(w[2:], h[2:], strict=True)]
    torch.testing.assert_close(weights(model), expected, rtol=0, atol=1e-14)


def test_a_shared_parameter_is_perturbed_once():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).double()
    model[2].weight = model[0].weight
    seen, twin = trail(model), copy.deepcopy(model)
    sharp("sam:rho=0.5", model).step(batch())
    loss = F.cross_entropy(twin(batch()[0]), batch()[1])
    g = torch.autograd.grad(loss, list(twin.parameters()))
    length = sum((v**2).sum() for v in g).sqrt()
    offset = [b - a for a, b in zip(seen[0], seen[1], strict=True)]
    assert len(offset) == 3
    torch.testing.assert_close(offset, [0.5 * v / length for v in g], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (lambda m: torch.optim.LBFGS(m.parameters()), "base is LBFGS"),
        (lambda m: "sgd", "base is str, allowed is a torch.optim.Optimizer"),
        (lambda m: sharp("sam", m), "base is SharpnessAware"),
        (lambda m: torch.optim.SGD([torch.zeros(1)], lr=0.1), "holds no trainable parameter"),
    ],
)
def test_bases_that_cannot_work_are_refused(base, message):
    model = net()
    with pytest.raises(UsageError, match=message):
        sharp("sam", model, base(model))


def test_weights_stored_in_half_precision_are_warned_about():
    with pytest.warns(SharpkitWarning, match=r"parameter 0\.weight is stored in torch\.bfloat16"):
        sharp("sam", net(dtype=torch.bfloat16))

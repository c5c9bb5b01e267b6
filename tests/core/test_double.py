"""What a base optimizer may be that a look-ahead copies: wrappers, what they hold, and what is refused."""

import functools
import threading
import warnings

import pytest
import torch

from sharpkit.core.ahead import look_ahead
from sharpkit.errors import UsageError
from tests.core.support import batch, bits, gradient, net, sharp, trail, weights


class Holding(torch.optim.Optimizer):
    """Gradient descent that also keeps one more thing."""

    def __init__(self, params, more=None):
        super().__init__(params, {"lr": 0.1})
        self.more = more
        self.seen = {id(p): torch.zeros_like(p) for group in self.param_groups for p in group["params"]}

    @torch.no_grad()
    def step(self, closure=None):
        for p in (p for group in self.param_groups for p in group["params"]):
            self.seen[id(p)].add_(p.grad)
            p.sub_(0.1 * self.seen[id(p)])


class Cycle:
    """Keeps a scheduler of an optimizer of its own, as those that warm up do."""

    def __init__(self):
        self.scheduler = torch.optim.lr_scheduler.StepLR(torch.optim.SGD([torch.ones(1)]), 2)


class Around(torch.optim.Optimizer):
    """Steps another optimizer, and pulls the weights towards where they began."""

    def __init__(self, inner):
        self.inner = inner
        self.first = [p.detach().clone() for group in inner.param_groups for p in group["params"]]

    @property
    def param_groups(self):
        return self.inner.param_groups

    @property
    def state(self):
        return self.inner.state

    @torch.no_grad()
    def step(self, closure=None):
        self.inner.step()
        params = [p for group in self.inner.param_groups for p in group["params"]]
        for p, first in zip(params, self.first, strict=True):
            p.lerp_(first, 0.25)


def schedule(base):
    """Attach a scheduler, which binds a counting step to the optimizer."""
    torch.optim.lr_scheduler.ExponentialLR(base, 0.5)
    return base


BASES = {
    "wrapper": lambda m: Around(torch.optim.RMSprop(m.parameters(), lr=0.01)),
    "wrapper of a scheduled one": lambda m: Around(schedule(torch.optim.RMSprop(m.parameters(), lr=0.01))),
    "wrapper of a wrapper": lambda m: Around(Around(torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9))),
    "tensors under the ids of parameters": lambda m: Holding(m.parameters()),
    "a module, with the parameters": lambda m: Holding(m.parameters(), m),
    "a bound method": lambda m: Holding(m.parameters(), m.forward),
    "an object with a scheduler": lambda m: Holding(m.parameters(), Cycle()),
}


def everything(base):
    """Return the state of an optimizer, of those that it holds, and of what it keeps beside."""
    held = {k: v for k, v in vars(base).items() if isinstance(v, list | dict)}
    return bits([held, everything(base.inner) if isinstance(base, Around) else None])


@pytest.mark.parametrize("name", BASES)
def test_the_look_ahead_is_the_step_of_a_second_one_and_changes_nothing(name):
    looking, stepping = net(), net()
    bases = [BASES[name](m) for m in (looking, stepping)]
    counted = []
    if isinstance(bases[0], Holding):
        bases[0].register_step_pre_hook(lambda *_: counted.append(1))

    def go(m, base, numbers):
        for number in numbers:
            for p, g in zip(m.parameters(), gradient(net(), *batch(seed=number)), strict=True):
                p.grad = g
            base.step()
            m.zero_grad()

    for m, base in zip((looking, stepping), bases, strict=True):
        go(m, base, range(3))
    counted.clear()
    start, direction, before = weights(stepping), gradient(net(), *batch(seed=3)), everything(bases[0])
    offset = look_ahead(bases[0], list(looking.parameters()), direction, "peek")
    assert bits(weights(looking)) == bits(start)
    assert everything(bases[0]) == before
    assert counted == []
    go(stepping, bases[1], [3])
    torch.testing.assert_close(
        [w + o for w, o in zip(start, offset, strict=True)], weights(stepping), rtol=0, atol=1e-15
    )
    go(looking, bases[0], [3, 4])
    go(stepping, bases[1], [4])
    assert bits(weights(looking)) == bits(weights(stepping))


def replaced(m, kind=torch.optim.RMSprop):
    base = kind(m.parameters())
    base.step = functools.partial(base.step)
    return base


def viewing(m):
    flat = torch.cat([p.detach().flatten() for p in m.parameters()])
    at = 0
    for p in m.parameters():
        p.data = flat[at : (at := at + p.numel())].view_as(p)
    return Holding(m.parameters(), flat)


def closing(m):
    counts = []
    return Holding(m.parameters(), lambda: counts.append(1))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (
            lambda m: Holding(m.parameters(), threading.Lock()),
            "it could not be copied (cannot pickle '_thread.lock' object)",
        ),
        (replaced, "its step was replaced on the instance"),
        (functools.partial(replaced, kind=torch.optim.SGD), "its step was replaced on the instance"),
        (viewing, "it keeps views of the weights"),
        (closing, "its function <lambda> holds a list"),
    ],
)
def test_what_cannot_be_copied_is_refused_with_the_remedy(make, reason):
    model = net()
    base = make(model)
    opt = sharp("sampa", model, base)
    opt.step(batch(seed=0))
    before = bits(weights(model))
    with pytest.raises(UsageError) as raised:
        opt.step(batch(seed=1))
    said = str(raised.value)
    assert said.startswith(f"the step of {type(base).__name__} cannot be tried out without changing it: {reason}")
    assert "y_step=plain" in said
    assert bits(weights(model)) == before
    plain = sharp("sampa:y_step=plain", model, base)
    for number in range(2):
        plain.step(batch(seed=number))
    assert bits(weights(model)) != before


def pretended(monkeypatch, base):
    """Return a wrapper as a training framework defines it, whose own attributes cannot be copied."""

    class Wrapped(torch.optim.Optimizer):
        def __init__(self, optimizer):
            self.optimizer, self.strategy = optimizer, threading.Lock()

        param_groups = property(lambda self: self.optimizer.param_groups)
        state = property(lambda self: self.optimizer.state)

        def step(self, closure=None):
            self.optimizer.step()

    Wrapped.__module__ = "accelerate.optimizer"
    return Wrapped(base)


def of_accelerate(monkeypatch, base):
    accelerate = pytest.importorskip("accelerate")
    return accelerate.Accelerator(cpu=True).prepare_optimizer(base)


def of_fabric(monkeypatch, base):
    lightning = pytest.importorskip("lightning")
    return lightning.Fabric(accelerator="cpu", devices=1).setup_optimizers(base)


@pytest.mark.parametrize("wrap", [pretended, of_accelerate, of_fabric])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.RMSprop])
def test_a_frameworks_wrapper_gives_the_weights_of_what_it_wraps(wrap, kind, monkeypatch):
    trails = []
    for wrapped in (False, True):
        model = net()
        base = kind(model.parameters(), lr=0.01, momentum=0.9)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            opt = sharp("sampa", model, wrap(monkeypatch, base) if wrapped else base)
        seen = trail(model)
        for number in range(4):
            opt.step(batch(seed=number))
        trails.append([bits(seen), bits(weights(model))])
    assert trails[0] == trails[1]

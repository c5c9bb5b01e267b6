"""The look-ahead of every optimizer of torch, timm and pytorch_optimizer: a second one, stepped, is the oracle."""

import inspect
import random

import numpy as np
import pytest
import torch
from torch import nn

from sharpkit.core.ahead import look_ahead
from sharpkit.errors import UsageError

pytestmark = pytest.mark.filterwarnings("ignore")


def seed(number):
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number)


class Trained:
    """A small network in double precision and its optimizer, after some steps of noise for gradients."""

    def __init__(self, make, steps, kind=torch.float64):
        torch.manual_seed(1)
        self.model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).to(kind)
        seed(2)
        self.base = make(self.model)
        getattr(self.base, "train", lambda: None)()
        held = {id(p) for group in self.base.param_groups for p in group["params"]}
        self.params = [p for p in self.model.parameters() if id(p) in held]
        self.go(range(steps))

    def noise(self, number):
        generator = torch.Generator().manual_seed(number)
        return [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in self.params]

    def go(self, numbers):
        for number in numbers:
            seed(number)
            for p, g in zip(self.params, self.noise(number), strict=True):
                p.grad = g
            self.base.step()
            for p in self.params:
                p.grad = None

    def weights(self):
        return torch.cat([p.detach().flatten() for p in self.params])


def agrees(make, steps, kind=torch.float64):
    """Return None, or why the look-ahead is not the optimizer's own step or changes it; raise if it is refused."""
    looking, stepping = Trained(make, steps, kind), Trained(make, steps, kind)
    start = stepping.weights()
    assert torch.equal(looking.weights(), start), "the oracle is not deterministic"
    seed(9)
    stream = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    offset = torch.cat([o.flatten() for o in look_ahead(looking.base, looking.params, looking.noise(9), "peek")])
    if not torch.equal(stream[0], torch.get_rng_state()) or stream[1:] != (
        random.getstate(),
        str(np.random.get_state()),
    ):
        return "a random stream was moved"
    if not torch.equal(looking.weights(), start) or any(p.grad is not None for p in looking.params):
        return "the weights or gradients were changed"
    stepping.go([9])
    if (error := (offset - (stepping.weights() - start)).abs().max()) > (1e-14 if kind is torch.float64 else 1e-6):
        return f"the look-ahead is off by {error}"
    looking.go(range(9, 13))
    stepping.go(range(10, 13))
    return None if torch.equal(looking.weights(), stepping.weights()) else "the optimizer was changed"


def of_torch():
    made = {
        name: lambda m, kind=kind: kind(m.parameters(), lr=0.01)
        for name, kind in vars(torch.optim).items()
        if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
    }
    matrices = lambda m: torch.optim.Muon([p for p in m.parameters() if p.ndim == 2], lr=0.01)  # noqa: E731
    return made | {"Muon": matrices}


def of_timm():
    timm = pytest.importorskip("timm.optim")
    names = [*timm.list_optimizers(), "lookahead_sgd", "lookahead_adamw", "lookahead_lamb"]
    return {name: lambda m, name=name: timm.create_optimizer_v2(m, opt=name, lr=0.01) for name in names}


def of_pytorch_optimizer():
    po = pytest.importorskip("pytorch_optimizer")
    made = {}
    for name in po.get_supported_optimizers():

        def build(m, name=name):
            kind = po.load_optimizer(name)
            options = {"lr": 0.01} if "lr" in inspect.signature(kind).parameters else {}
            try:
                return kind(m.parameters(), **options)
            except (AttributeError, RuntimeError):  # it asks for two kinds of groups
                sides = [[p for p in m.parameters() if (p.ndim == 2) is matrix] for matrix in (True, False)]
                groups = [{"params": side, "use_muon": side is sides[0]} for side in sides]
                return kind(groups, **options)

        made[name] = build
    for name in ("Lookahead", "OrthoGrad", "ScheduleFreeWrapper", "TRAC"):
        made[f"{name} of SGD"] = lambda m, name=name: getattr(po, name)(
            torch.optim.SGD(m.parameters(), lr=0.01, momentum=0.9)
        )
    return made


@pytest.mark.parametrize(
    ("library", "at_least"),
    [
        pytest.param(of_torch, 13, id="torch"),
        pytest.param(of_timm, 80, id="timm", marks=pytest.mark.slow),
        pytest.param(of_pytorch_optimizer, 90, id="pytorch_optimizer", marks=pytest.mark.slow),
    ],
)
def test_the_look_ahead_is_the_optimizers_own_step_and_changes_nothing(library, at_least):
    """In mid-run and before the first step; those that step at all here must agree, and none may be refused."""
    agreed, wrong = [], {}
    for name, make in library().items():
        try:
            kind = torch.float64
            try:
                Trained(make, 2)
            except RuntimeError:
                kind = torch.float32
                Trained(make, 2, kind)
        except Exception:
            continue
        try:
            for steps in (0, 3):
                if reason := agrees(make, steps, kind):
                    wrong[name] = f"{reason} (after {steps} steps)"
        except UsageError as error:
            wrong[name] = str(error)
        agreed.append(name)
    assert not wrong
    assert len(agreed) >= at_least, agreed

"""Modules that write to themselves or to the random streams when they are called, and all that can be told of them."""

import random
import warnings

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from tests.core.support import bits


class Tokens(nn.Module):
    """Embeddings of numbers made from floats; both tables are scaled in place by every pass."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(9, 4, max_norm=1.0)
        self.bag = nn.EmbeddingBag(9, 4, max_norm=0.5, norm_type=1.0)
        self.out = nn.Linear(4, 3)
        with torch.no_grad():
            self.table.weight.mul_(3)

    def forward(self, x):
        tokens = (3 * x.abs()).long().clamp(max=8)
        return self.out(torch.tanh(self.table(tokens).mean(1) + self.bag(tokens)))


class Restless(nn.Module):
    """Counts, draws, remembers and appends in every call, without any of it reaching its outputs."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("scratch", torch.zeros(3), persistent=False)
        self.register_buffer("nothing", None)
        self.count, self.seen, self.kept = 0, [], {"means": torch.zeros(3), "nested": [torch.ones(2)]}
        self.torch_stream, self.python_stream = torch.Generator().manual_seed(3), random.Random(3)
        self.numpy_streams = (np.random.default_rng(3), np.random.RandomState(3))
        self.hidden = [nn.BatchNorm1d(6, affine=False)]  # no submodule, and always in training mode

    def forward(self, x):
        out = self.layer(x + 0 * self.hidden[0](x.detach().float()).to(x))
        self.calls += 1
        self.scratch = self.scratch + out.detach().mean(0).to(self.scratch)
        self.count += 1
        self.seen.append(float(out.detach().sum()))
        self.kept["means"].add_(1)
        self.kept["nested"][0].mul_(2)
        self.last = out.detach()
        drawn = torch.rand(()) + random.random() + np.random.rand() + self.python_stream.random()
        drawn = drawn + torch.rand((), generator=self.torch_stream) + sum(s.random() for s in self.numpy_streams)
        if self.count == 2:
            self.register_buffer("late", torch.ones(2))
            self.layer.register_forward_hook(lambda *_: None)
            self.training_was = self.training
        return out + 0 * drawn


class Clipped(nn.Module):
    """Clips its weights in place before it uses them, as a critic of a Wasserstein GAN may."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x):
        self.layer.weight.data.clamp_(-0.2, 0.2)
        return self.layer(x)


def _sequence(first):
    return nn.Sequential(first, nn.Tanh(), nn.Linear(5, 3))


def _hooked():
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # that torch has a newer way
        return _sequence(weight_norm(nn.Linear(6, 5)))


def _pruned():
    model = _sequence(nn.Linear(6, 5))
    prune.random_unstructured(model[0], "weight", 0.4)
    return model


ZOO = {
    "max_norm": Tokens,
    "cumulative batch norm": lambda: nn.Sequential(
        nn.Linear(6, 5), nn.BatchNorm1d(5, momentum=None), nn.Tanh(), nn.Linear(5, 3)
    ),
    "convolution": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 2), nn.BatchNorm2d(4, momentum=None), nn.Flatten(), nn.Linear(8, 3)
    ),
    "spectral norm": lambda: _sequence(parametrizations.spectral_norm(nn.Linear(6, 5))),
    "spectral norm by a hook": lambda: _sequence(spectral_norm(nn.Linear(6, 5))),
    "weight norm": lambda: _sequence(parametrizations.weight_norm(nn.Linear(6, 5))),
    "weight norm by a hook": _hooked,
    "pruned": _pruned,
    "restless": Restless,
    "dropout": lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 3)),
    "clipped": Clipped,
}
"""Modules of six features in three classes."""


def animal(kind):
    """A module of the zoo in float64, in training mode but for its last layer, with gradients and a frozen bias."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ZOO[kind]().double()
        x, y = samples()
        F.cross_entropy(model(x), y).backward()
        list(model.modules())[-1].eval()
        [p for name, p in model.named_parameters() if name.endswith("bias")][-1].requires_grad_(False)
        model(x)
    return model


def samples():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(12, 6, generator=generator, dtype=torch.float64), torch.randint(3, (12,), generator=generator)


def everything(model):
    """All that a diagnostic has to leave alone, as something that can be compared."""
    told = [bits([torch.get_rng_state()]), random.getstate(), str(np.random.get_state(legacy=False))]
    waiting, modules = [("", model)], []
    while waiting:
        name, module = waiting.pop()
        modules.append((name, module))
        waiting += [(f"{name}.{n}", m) for n, m in module.named_children()]
        waiting += [(f"{name}.hidden{i}", m) for i, m in enumerate(getattr(module, "hidden", []))]
    for name, module in modules:
        told.append((name, id(module), type(module), sorted(vars(module)), module.training))
        for key, value in sorted(vars(module).items()):
            told.append((name, key, id(value), described(value)))
    return told


def described(value):
    if isinstance(value, torch.Tensor):
        grad = None if not value.is_leaf or value.grad is None else (id(value.grad), bits([value.grad]))
        return id(value), value.data_ptr(), value.stride(), value.dtype, value.requires_grad, bits([value]), grad
    if isinstance(value, dict):
        return [(key, described(v)) for key, v in value.items()]
    if isinstance(value, list | tuple):
        return [described(v) for v in value]
    if isinstance(value, torch.Generator):
        return bits([value.get_state()])
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, np.random.Generator):
        return str(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return str(value.get_state(legacy=False))
    if isinstance(value, bool | int | float | str | None):
        return value
    return id(value)

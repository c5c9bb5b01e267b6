"""Nets, batches and bitwise comparison for the tests of the engine."""

import copy
import inspect
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from sharpkit import SharpnessAware
from sharpkit.core.optimizer import SharpnessAware as Engine
from tests.reference.problems import EPOCH

SAMPLES = 10 * EPOCH
LENGTHS = {"total_steps": 20, "steps_per_epoch": EPOCH}
if "samples" in inspect.signature(Engine).parameters:
    LENGTHS["samples"] = SAMPLES

READS = {"aten::_local_scalar_dense", "aten::is_nonzero", "aten::nonzero", "aten::equal"}


class Reads(TorchDispatchMode):
    """Collects the operators that would make the host wait for an accelerator."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name in READS:
            self.seen.append(func._schema.name)
        return func(*args, **(kwargs or {}))


class Noted(nn.Module):
    """The identity, noting in `seen` what passes through it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, x):
        self.seen.append(x.detach().clone())
        return x


NETS = {
    "linear": lambda: [nn.Linear(4, 3)],
    "mlp": lambda: [nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)],
    "batch-norm": lambda: [nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)],
    "dropout": lambda: [nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), Noted(), nn.Linear(6, 3)],
}


def net(kind="mlp", seed=0, dtype=torch.float64) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(*NETS[kind]()).to(dtype)


def batch(size=8, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, 4, generator=generator, dtype=torch.float64).to(dtype)
    return x, torch.randint(3, (size,), generator=generator)


def numbered(size=8, seed=0, dtype=torch.float64):
    """A batch with sample numbers, the same ones after EPOCH seeds."""
    return *batch(size, seed, dtype), (10 * (seed % EPOCH) + torch.arange(size)) % SAMPLES


def sharp(rule, model, base=None, **options) -> SharpnessAware:
    base = base or torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    return SharpnessAware(model, base, rule, **{"loss": F.cross_entropy, **LENGTHS, **options})


def weights(model) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def gradient(model, x, y, at=None):
    """The gradient of the mean cross-entropy, at other weights if asked, by plain autograd on a copy."""
    model = copy.deepcopy(model)
    if at is not None:
        for p, value in zip(model.parameters(), at, strict=True):
            p.data.copy_(value)
    return list(torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters())))


def joint_norm(tensors) -> float:
    return float(np.sqrt(sum(float((t.detach().double() ** 2).sum()) for t in tensors)))


def trail(model) -> list[list[torch.Tensor]]:
    """A list that grows by the model's weights at every forward pass."""
    seen: list[list[torch.Tensor]] = []
    model.register_forward_pre_hook(lambda module, _: seen.append(weights(module)))
    return seen


def bits(tree):
    """A nested structure with every tensor replaced by its type, shape and bytes, so that NaN equals NaN."""
    if isinstance(tree, torch.Tensor):
        return tree.dtype, tuple(tree.shape), tree.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(tree, Mapping):
        return {key: bits(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [bits(value) for value in tree]
    return tree


def everything(model, opt):
    """All state that a step may change, as comparable plain data."""
    return bits({"model": model.state_dict(), "optimizer": opt.state_dict()})


def drawn(opt, model) -> np.ndarray:
    """The mask of the last step as one vector over the model's parameters, whichever of the recipes keeps one."""
    (mask,) = [value for key, value in opt.state_dict()["memory"].items() if key.endswith(".mask")]
    parts = [m.expand(p.shape).flatten() for m, p in zip(mask, model.parameters(), strict=True)]
    return torch.cat(parts).numpy()

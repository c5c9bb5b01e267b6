"""Small problems in float64: a torch model and, written apart from it, the gradient of its mean loss.

A problem hands the engine `model`, `loss` and `batches`; it hands a reference `start`, `is_weight` and
`gradient(w, t, clean)` on flat vectors, where t counts steps and `clean` passes alone advance buffers.
"""

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

SIZES = (8, 8, 8, 8, 5)  # the last batch of a pass is smaller


class Problem:
    loss = staticmethod(F.cross_entropy)

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.model = self.build().double()
        self.batches = [self.draw(size, generator) for size in SIZES]
        named = dict(self.model.named_parameters())
        self.shapes = {name: p.shape for name, p in named.items()}
        self.start = flat(self.model)
        self.is_weight = np.concatenate([np.full(p.numel(), "weight" in name) for name, p in named.items()])
        self.buffers = {name: b.clone() for name, b in self.model.named_buffers()}
        self.prepare()

    def build(self) -> nn.Module:
        raise NotImplementedError

    def prepare(self) -> None:
        pass

    def draw(self, size: int, generator: torch.Generator):
        x = torch.randn(size, 4, generator=generator, dtype=torch.float64)
        return x, torch.randint(3, (size,), generator=generator)

    def batch(self, t: int):
        return self.batches[t % len(self.batches)]

    def cut(self, w: np.ndarray) -> dict[str, np.ndarray]:
        ends = np.cumsum([shape.numel() for shape in self.shapes.values()])
        return {n: part.reshape(s) for (n, s), part in zip(self.shapes.items(), np.split(w, ends[:-1]), strict=True)}


class Quadratic(Problem):
    """Linear least squares: L = mean (x W' + b - y)^2 / 2, whose gradient is residual' x / B."""

    def build(self):
        return nn.Linear(4, 1)

    def draw(self, size, generator):
        x = torch.randn(size, 4, generator=generator, dtype=torch.float64)
        return x, torch.randn(size, 1, generator=generator, dtype=torch.float64)

    @staticmethod
    def loss(outputs, targets, reduction):
        return F.mse_loss(outputs, targets, reduction=reduction) / 2

    def gradient(self, w, t, clean=False):
        x, y = (a.numpy() for a in self.batch(t))
        residual = x @ w[:4] + w[4] - y[:, 0]
        return np.append(residual @ x, residual.sum()) / len(x)


class MLP(Problem):
    """Linear, tanh, linear, cross-entropy, with back-propagation by hand."""

    def build(self):
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))

    def gradient(self, w, t, clean=False):
        x, y = (a.numpy() for a in self.batch(t))
        W1, b1, W2, b2 = self.cut(w).values()  # noqa: N806
        a = np.tanh(x @ W1.T + b1)
        z = a @ W2.T + b2
        p = np.exp(z - z.max(1, keepdims=True))
        dz = (p / p.sum(1, keepdims=True) - np.eye(3)[y]) / len(x)
        ds = dz @ W2 * (1 - a**2)
        return np.concatenate([(ds.T @ x).ravel(), ds.sum(0), (dz.T @ a).ravel(), dz.sum(0)])


class Autograd(Problem):
    """A net whose gradient comes from autograd on a separate copy; buffers are passed in and out by hand."""

    def prepare(self):
        with torch.random.fork_rng():
            self.copy = self.build().double()

    def gradient(self, w, t, clean=False):
        x, y = self.batch(t)
        buffers = self.buffers if clean else {name: b.clone() for name, b in self.buffers.items()}
        params = {name: torch.tensor(part, requires_grad=True) for name, part in self.cut(w).items()}
        loss = F.cross_entropy(functional_call(self.copy, (params, buffers), (x,)), y)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(params.values()))]).numpy()


class BatchNormNet(Autograd):
    def build(self):
        # Without the bias that batch norm cancels: Adam would blow its rounding noise up to full steps.
        return nn.Sequential(nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))


class LayerNormNet(Autograd):
    def build(self):
        return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3))


PROBLEMS = {"quadratic": Quadratic, "mlp": MLP, "batch-norm": BatchNormNet, "layer-norm": LayerNormNet}


def flat(model: nn.Module) -> np.ndarray:
    """The model's parameters as one vector, in their own order."""
    return torch.cat([p.detach().flatten() for p in model.parameters()]).numpy().copy()

"""Small problems in float64: a torch model and, written apart from it, the gradient of its mean loss.

A problem hands the engine `model`, `loss` and `batch(t)`; it hands a reference `start`, `is_weight`, `is_norm`
and `gradient(w, t, clean, rows, slope)` on flat vectors, where t counts steps and `clean` passes alone advance
buffers, one pass after the other. The mean runs over the `rows` of batch t, and `slope` is the derivative of the
per-sample objective by the model's outputs, the problem's own loss unless another is given.

Every epoch shows the same samples in an order of its own; a batch says which ones they are.
"""

from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

BATCH, SAMPLES = 8, 29  # the last batch of an epoch is smaller
EPOCH = 4  # steps
EVERY = slice(None)
NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.RMSNorm,
)


class Problem:
    loss = staticmethod(F.cross_entropy)
    classifies = True

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.model = self.build().double()
        self.data = self.draw(SAMPLES, generator)
        named = dict(self.model.named_parameters())
        self.shapes = {name: p.shape for name, p in named.items()}
        self.ends = np.cumsum([shape.numel() for shape in self.shapes.values()])[:-1]
        self.start = flat(self.model)
        self.is_weight = np.concatenate([np.full(p.numel(), "weight" in name) for name, p in named.items()])
        affine = {id(p) for module in self.model.modules() if isinstance(module, NORMS) for p in module.parameters()}
        self.is_norm = np.concatenate([np.full(p.numel(), id(p) in affine) for p in named.values()])
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
        """Inputs, targets and sample numbers of step t."""
        epoch, i = divmod(t, EPOCH)
        order = np.random.default_rng(epoch).permutation(SAMPLES)
        rows = torch.from_numpy(order[BATCH * i : BATCH * (i + 1)])
        return *(column[rows] for column in self.data), rows

    def size(self, t: int) -> int:
        return len(self.batch(t)[0])

    def shards(self, t: int, m: int) -> list[slice]:
        """Batch t in m contiguous pieces, of which the first `size % m` have one sample more."""
        small, larger = divmod(self.size(t), m)
        ends = [i * small + min(i, larger) for i in range(m + 1)]
        return [slice(a, b) for a, b in pairwise(ends)]

    def cut(self, w: np.ndarray) -> dict[str, np.ndarray]:
        return {n: part.reshape(s) for (n, s), part in zip(self.shapes.items(), np.split(w, self.ends), strict=True)}

    def gradient(self, w: np.ndarray, t: int, clean: bool = False, rows=EVERY, slope=None) -> np.ndarray:
        x, y = (a.numpy()[rows] for a in self.batch(t)[:2])
        return self.backward(w, x, lambda z: (slope or self.slope)(z, y) / len(x), clean)

    def squares(self, w: np.ndarray, t: int, count: int) -> np.ndarray:
        """The mean square of the gradients of the first samples of batch t, each alone, in evaluation mode."""
        x, y = (a.numpy() for a in self.batch(t)[:2])
        rows = [slice(i, i + 1) for i in range(count)]
        grads = [self.backward(w, x[r], lambda z, r=r: self.slope(z, y[r]), evaluated=self.buffers) for r in rows]
        return np.mean(np.square(grads), axis=0)

    def outputs(self, w: np.ndarray, t: int, buffers: dict[str, torch.Tensor]) -> np.ndarray:
        """What the model gives in evaluation mode, with other buffers than its own."""
        seen = []
        self.backward(w, self.batch(t)[0].numpy(), lambda z: seen.append(z) or np.zeros_like(z), evaluated=buffers)
        return seen[0]

    def backward(self, w, x, slope, clean=False, evaluated=None) -> np.ndarray:
        """The gradient of a function of the outputs, whose derivative by them is `slope(outputs)`.

        In training mode; with buffers in `evaluated`, in evaluation mode with those.
        """
        raise NotImplementedError

    @staticmethod
    def slope(z: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Cross-entropy of each row: softmax less the indicator of the target."""
        p = np.exp(z - z.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        p[np.arange(len(y)), y] -= 1
        return p


class Quadratic(Problem):
    """Linear least squares: L = mean (x W' + b - y)^2 / 2, whose gradient is residual' x / B."""

    classifies = False

    def build(self):
        return nn.Linear(4, 1)

    def draw(self, size, generator):
        x = torch.randn(size, 4, generator=generator, dtype=torch.float64)
        return x, torch.randn(size, 1, generator=generator, dtype=torch.float64)

    @staticmethod
    def loss(outputs, targets, reduction):
        return F.mse_loss(outputs, targets, reduction=reduction) / 2

    @staticmethod
    def slope(z, y):
        return z - y

    def backward(self, w, x, slope, clean=False, evaluated=None):
        residual = slope(x @ w[:4, None] + w[4])[:, 0]
        return np.append(residual @ x, residual.sum())


class MLP(Problem):
    """Linear, tanh, linear, cross-entropy, with back-propagation by hand."""

    def build(self):
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))

    def backward(self, w, x, slope, clean=False, evaluated=None):
        W1, b1, W2, b2 = self.cut(w).values()  # noqa: N806
        a = np.tanh(x @ W1.T + b1)
        dz = slope(a @ W2.T + b2)
        ds = dz @ W2 * (1 - a**2)
        return np.concatenate([(ds.T @ x).ravel(), ds.sum(0), (dz.T @ a).ravel(), dz.sum(0)])


class Autograd(Problem):
    """A net whose gradient comes from autograd on a separate copy; buffers are passed in and out by hand."""

    def prepare(self):
        with torch.random.fork_rng():
            self.copy = self.build().double()

    def backward(self, w, x, slope, clean=False, evaluated=None):
        buffers = self.buffers if clean else {name: b.clone() for name, b in (evaluated or self.buffers).items()}
        self.copy.train(evaluated is None)
        params = {name: torch.tensor(part, requires_grad=True) for name, part in self.cut(w).items()}
        z = functional_call(self.copy, (params, buffers), (torch.tensor(x),))
        dz = torch.tensor(slope(z.detach().numpy()))
        return torch.cat([g.flatten() for g in torch.autograd.grad(z, list(params.values()), dz)]).numpy()


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

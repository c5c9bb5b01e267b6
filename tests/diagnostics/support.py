"""Small networks in double precision, their dense Hessians, and operators that are known exactly."""

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, grad, jacrev
from torch.nn import functional as F

from sharpkit.diagnostics.curvature.lanczos import Lanczos
from sharpkit.diagnostics.curvature.operators import Operator, Term


class Attention(nn.Module):
    """Two tokens of four features: attention by the fused function, layer norm, a read-out."""

    def __init__(self):
        super().__init__()
        self.query = nn.Linear(4, 6)
        self.norm = nn.LayerNorm(6)
        self.out = nn.Linear(6, 3)

    def forward(self, x):
        q = self.query(x.reshape(len(x), 2, -1)[:, :, :4])
        attended = F.scaled_dot_product_attention(q, q.flip(1), q)
        return self.out(self.norm(attended + q).mean(1))


class Residual(nn.Module):
    """A convolution whose output is used beside its batch norm, so that the two may not be folded."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.out = nn.Linear(3, 3)

    def forward(self, x):
        seen = self.conv(x)
        return self.out((torch.tanh(self.norm(seen)) + seen).mean((2, 3)))


NETS = {
    "mlp": lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.Tanh(), nn.Linear(5, 3)),
    "cnn": lambda: nn.Sequential(
        nn.Conv2d(1, 3, 3, bias=False),
        nn.BatchNorm2d(3),
        nn.GELU(),
        nn.Conv2d(3, 2, 1),
        nn.BatchNorm2d(2, affine=False),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(8, 3),
    ),
    "layer-norm": lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.LayerNorm(4), nn.SiLU(), nn.Linear(4, 3)),
    "attention": lambda: nn.Sequential(nn.Flatten(), Attention()),
    "encoder": lambda: nn.Sequential(
        nn.TransformerEncoderLayer(4, 2, 5, dropout=0.1, batch_first=True, activation="gelu"),
        nn.Flatten(),
        nn.Linear(16, 3),
    ),
    "residual": Residual,
}


def net(kind, seed=0):
    """A network of (1, 4, 4) images in three classes whose batch-norm statistics are not the initial ones."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = NETS[kind]()
        model.kind = kind
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean, -0.5, 0.5)
                nn.init.uniform_(module.running_var, 0.5, 2)
                if module.affine:
                    nn.init.uniform_(module.weight, 0.5, 2)
                    nn.init.uniform_(module.bias, -0.5, 0.5)
    return model.double()


def samples(kind="mlp", count=20, seed=1):
    generator = torch.Generator().manual_seed(seed)
    shape = (count, 4, 4) if kind == "encoder" else (count, 1, 4, 4)
    return torch.randn(shape, generator=generator, dtype=torch.float64), torch.randint(3, (count,), generator=generator)


def uneven(x, y, sizes=(7, 7, 6)):
    return list(zip(x.split(list(sizes)), y.split(list(sizes)), strict=True))


def flat_function(model, function):
    """`function(model as a function of its inputs)` as a function of one flat vector of its parameters."""
    named = dict(model.named_parameters())
    sizes = [p.numel() for p in named.values()]

    def of(flat):
        pieces = [part.reshape(p.shape) for part, p in zip(flat.split(sizes), named.values(), strict=True)]
        return function(lambda x: functional_call(model, dict(zip(named, pieces, strict=True)), (x,)))

    return of, torch.cat([p.detach().flatten() for p in named.values()])


def dense(model, x, y, loss=F.cross_entropy):
    """The Hessian of the mean loss by torch.func, in evaluation mode."""
    training = model.training
    model.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    of, at = flat_function(model, lambda call: loss(call(x), y))
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        matrix = jacrev(grad(of))(at)
    model.train(training)
    torch.backends.mha.set_fastpath_enabled(True)
    return matrix


class Diagonal(Operator):
    """A diagonal matrix."""

    def __init__(self, entries):
        super().__init__(len(entries), entries.dtype, entries.device)
        self.entries = entries

    def terms(self, draw):
        vector = draw()
        yield Term(0, 1.0, vector, self.entries * vector)


class Sum(Operator):
    """A sum of matrices, each a term of its own."""

    def __init__(self, *matrices):
        super().__init__(len(matrices[0]), matrices[0].dtype, matrices[0].device)
        self.matrices = matrices

    def terms(self, draw):
        for number, matrix in enumerate(self.matrices):
            vector = draw()
            yield Term(number, 1 / len(self.matrices), vector, matrix @ vector)


def basis_of(operator, *, rows=400, seed=0, block=1, lead=None):
    return Lanczos(operator, rows=rows, generator=torch.Generator().manual_seed(seed), block=block, lead=lead)


def rotated(values, seed=0):
    """A dense symmetric matrix of given eigenvalues in random directions."""
    generator = torch.Generator().manual_seed(seed)
    count = len(values)
    basis = torch.linalg.qr(torch.randn(count, count, generator=generator, dtype=torch.float64))[0]
    matrix = basis @ torch.diag(torch.tensor([float(v) for v in values], dtype=torch.float64)) @ basis.T
    return (matrix + matrix.T) / 2


X, Y = np.linspace(-1, 1, 5), np.linspace(-0.5, 0.7, 4)
"""The grid of the tests of surfaces."""


def points(model, x, y, plane, xs, ys, loss=F.cross_entropy):
    """The mean loss at every point by the definition, one functional call each: (ny, nx)."""
    named = {name: p.detach() for name, p in model.named_parameters()}
    found = np.zeros((len(ys), len(xs)))
    for j, b in enumerate(ys):
        for i, a in enumerate(xs):
            moved = dict(named)
            for k, name in enumerate(plane.names):
                moved[name] = named[name] + a * plane.axes[0][k]
                if len(plane.axes) > 1:
                    moved[name] = moved[name] + b * plane.axes[1][k]
            with torch.no_grad():
                found[j, i] = float(loss(functional_call(model, moved, (x,)), y))
    return found

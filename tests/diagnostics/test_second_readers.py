"""Batch norm after a layer whose output something else reads too, though it makes no difference at the weights."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from sharpkit.core.task import Batch, Supervised
from sharpkit.diagnostics import hessian, landscape
from sharpkit.diagnostics.folding import folded
from sharpkit.diagnostics.surfaces.plane import Plane, random_plane


class Gated(nn.Module):
    """A convolution, batch norm, and what else reads the convolution's output."""

    def __init__(self, reader):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Linear(3, 3)
        self.gate = nn.Parameter(torch.zeros(3, 1, 1))
        self.reader = reader

    def forward(self, x):
        y = self.conv(x)
        return self.head(self.reader(self, y, self.norm(y).tanh()).mean((2, 3)))


def of_a_list(module, y, z):
    parts = [y, z]
    return z + module.gate * parts[0]


def under_no_grad(module, y, z):
    with torch.no_grad():
        scale = y.mean()
    return z + module.gate * scale


READERS = {
    "a gate": lambda m, y, z: z + m.gate * y,
    "a list": of_a_list,
    "a view": lambda m, y, z: z + m.gate * y[..., :1, :1],
    "a detached copy": lambda m, y, z: z + m.gate * y.detach(),
    "no_grad": under_no_grad,
    "a product of gates": lambda m, y, z: z + (m.gate * y) * m.gate.exp(),
    "a clamp": lambda m, y, z: z + F.relu(m.gate * y - 0.0) - F.relu(-m.gate * y),
    "a number": lambda m, y, z: z + m.gate * float(y.detach().mean()),
}

CONSTANT = ("a detached copy", "no_grad", "a number")
"""What autograd holds constant: its gradient is that of no function, and the Hessian that of the rest."""


def made(name):
    torch.manual_seed(0)
    model = Gated(READERS[name])
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(20, 2, 5, 5, generator=generator) + 1, torch.randint(3, (20,), generator=generator)
    model.train()
    for _ in range(9):
        model(x)
    return model.double().eval(), x.double(), y


def dense(model, x, y):
    """The Hessian by torch.func, of a model of which nothing is changed."""
    names = [name for name, _ in model.named_parameters()]
    sizes = [p.numel() for p in model.parameters()]

    def loss(flat):
        parts = dict(zip(names, flat.split(sizes), strict=True))
        shaped = {name: parts[name].view_as(p) for name, p in model.named_parameters()}
        return F.cross_entropy(functional_call(model, shaped, (x,)), y)

    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    return torch.autograd.functional.hessian(loss, flat)


@pytest.mark.parametrize("name", READERS)
def test_a_second_reader_that_is_zero_at_the_weights_keeps_batch_norm_unfolded(name):
    model, x, y = made(name)
    with folded(model, Supervised(model, F.cross_entropy), Batch(x, y)) as folding:
        assert folding.pairs.found == []
        assert "norm, for its input has another reader" in folding.pairs.refused[0]


@pytest.mark.parametrize("name", READERS)
def test_eigenvalues_with_a_second_reader_are_those_of_the_dense_hessian(name):
    model, x, y = made(name)
    exact = torch.linalg.eigvalsh(dense(model, x, y)).flip(0)
    found = hessian(model, F.cross_entropy, [(x, y)], top=4, tol=1e-8)
    np.testing.assert_allclose(found.eigenvalues, exact[:4].numpy(), rtol=1e-6)
    if name in CONSTANT:
        assert "what is detached is held constant" in found.self_check.cause
        assert any("the self-check failed" in note for note in found.notes)
    else:
        assert found.self_check.state == "passed"
    assert "norm, for its input has another reader" in found.how


@pytest.mark.parametrize("name", READERS)
def test_surfaces_with_a_second_reader_are_the_losses_of_the_moved_model(name):
    model, x, y = made(name)
    plane: Plane = random_plane(model, ignore="none")
    found = landscape(model, F.cross_entropy, [(x, y)], x=(-1.0, 0.5), y=(0.0, 1.0), plane=plane)
    held = [p.detach().clone() for p in model.parameters()]
    by_name = dict(zip(plane.names, range(len(plane.names)), strict=True))
    for j, b in enumerate((0.0, 1.0)):
        for i, a in enumerate((-1.0, 0.5)):
            with torch.no_grad():
                for (param_name, p), w in zip(model.named_parameters(), held, strict=True):
                    k = by_name[param_name]
                    p.copy_(w + a * plane.axes[0][k] + b * plane.axes[1][k])
                expected = float(F.cross_entropy(model(x), y))
            assert found.loss[j, i] == pytest.approx(expected, rel=1e-9)


def test_a_plain_pair_is_still_folded():
    model, x, y = made("a gate")
    model.reader = lambda m, y, z: z + m.gate
    with folded(model, Supervised(model, F.cross_entropy), Batch(x, y)) as folding:
        assert len(folding.pairs.found) == 1
    exact = torch.linalg.eigvalsh(dense(model, x, y)).flip(0)
    found = hessian(model, F.cross_entropy, [(x, y)], top=3, tol=1e-8)
    np.testing.assert_allclose(found.eigenvalues, exact[:3].numpy(), rtol=1e-6)
    assert "1 batch norms folded" in found.how


def test_weights_that_are_read_elsewhere_too_keep_their_derivatives():
    """A penalty in the losses and a layer that shares the convolution's weight read what they did."""

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Linear(2, 3)

        def forward(self, x):
            y = self.norm(self.conv(x)).tanh()
            return self.head(F.conv2d(y, self.conv.weight).mean((2, 3)))

    torch.manual_seed(0)
    model = Tied()
    x, y = torch.randn(12, 2, 5, 5), torch.randint(3, (12,))
    for _ in range(5):
        model(x)
    model, x = model.double().eval(), x.double()
    exact = torch.linalg.eigvalsh(dense(model, x, y)).flip(0)
    found = hessian(model, F.cross_entropy, [(x, y)], top=3, tol=1e-8)
    np.testing.assert_allclose(found.eigenvalues, exact[:3].numpy(), rtol=1e-6)

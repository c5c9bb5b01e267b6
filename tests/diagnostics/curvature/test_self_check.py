"""Operators check themselves: wrong second derivatives are found, and right ones raise no alarm."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpkit.diagnostics import hessian
from sharpkit.diagnostics.curvature.matrices import Curvature
from sharpkit.diagnostics.curvature.self_check import verified
from sharpkit.diagnostics.problem import opened
from sharpkit.errors import InputError
from sharpkit.models import MODELS
from tests.diagnostics.support import NETS, dense, net, samples, uneven


class _SoftplusGrad(torch.autograd.Function):
    """The derivative of softplus, whose own derivative is off by a factor, or not symmetric."""

    @staticmethod
    def forward(ctx, x, grad, factor):
        ctx.save_for_backward(x, grad)
        ctx.factor = factor
        return grad * x.sigmoid()

    @staticmethod
    def backward(ctx, upper):
        x, grad = ctx.saved_tensors
        slope = x.sigmoid() * (1 - x.sigmoid())
        return ctx.factor * upper * grad * slope, upper * x.sigmoid(), None


class _Softplus(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, factor):
        ctx.save_for_backward(x)
        ctx.factor = factor
        return F.softplus(x)

    @staticmethod
    def backward(ctx, grad):
        return _SoftplusGrad.apply(ctx.saved_tensors[0], grad, ctx.factor), None


class Wrong(nn.Module):
    """A network whose activation has a second derivative that is off by a factor."""

    def __init__(self, factor):
        super().__init__()
        self.factor, self.a, self.b = factor, nn.Linear(16, 5), nn.Linear(5, 3)

    def forward(self, x):
        hidden = self.a(x.flatten(1))
        return self.b(F.softplus(hidden) if self.factor is None else _Softplus.apply(hidden, self.factor))


def wrong(factor, dtype=torch.float64):
    torch.manual_seed(0)
    return Wrong(factor).to(dtype)


def exact(count):
    model, (x, y) = wrong(None), samples()
    return np.linalg.eigvalsh(dense(model, x, y).detach().numpy())[::-1][:count]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("factor", [0.0, 0.8, 1.2, -1.0])
def test_a_wrong_double_backward_is_replaced_by_finite_differences_aloud(factor, dtype):
    model, (x, y) = wrong(factor, dtype), samples()
    found = hessian(model, F.cross_entropy, [(x.to(dtype), y)], top=3, tol=1e-5)
    np.testing.assert_allclose(found.eigenvalues, exact(3), rtol=1e-4)
    assert found.self_check.state == "passed"
    assert any("finite differences are used: products by autograd" in note for note in found.notes)


def test_a_factor_of_one_is_right():
    model, (x, y) = wrong(1.0), samples()
    found = hessian(model, F.cross_entropy, [(x, y)], top=3, tol=1e-8)
    np.testing.assert_allclose(found.eigenvalues, exact(3), rtol=1e-6)
    assert found.self_check.state == "passed"
    assert found.notes == ()


@pytest.mark.parametrize("options", [{"products": "autograd"}, {"bn_mode": "train"}])
def test_it_is_refused_where_finite_differences_are_not_allowed(options):
    model, (x, y) = wrong(0.5), samples()
    with pytest.raises(InputError, match=r"the self-check failed: products by autograd .*--no-self-check"):
        hessian(model, F.cross_entropy, [(x, y)], top=1, **options)


def test_without_the_check_what_autograd_gives_is_computed_and_said_to_be_unchecked():
    model, (x, y) = wrong(50.0), samples()
    found = hessian(model, F.cross_entropy, [(x, y)], top=1, tol=1e-8, self_check=False)
    assert found.self_check.state == "skipped"
    assert abs(found.eigenvalues[0] / exact(1)[0] - 1) > 0.01


def test_of_several_batches_a_function_that_is_wrong_for_a_part_of_the_weights_is_found():
    """The difference is looked at tensor by tensor, so that a small one does not drown in a large one."""
    model, (x, y) = wrong(0.5), samples()
    with torch.no_grad():
        model.b.weight.mul_(0.05)  # the wrong part is a small one of the product
    found = hessian(model, F.cross_entropy, uneven(x, y), top=1)
    assert any("finite differences are used" in note for note in found.notes)


class Asymmetric(nn.Module):
    """A quadratic whose gradient is A w with an A that is not symmetric."""

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, w, matrix):
            ctx.save_for_backward(w, matrix)
            return w @ matrix @ w / 2

        @staticmethod
        def backward(ctx, grad):
            w, matrix = ctx.saved_tensors
            return grad * (matrix @ w), None

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)  # other numbers than those of the direction that is looked along
        self.w = nn.Parameter(torch.randn(6, dtype=torch.float64))
        self.register_buffer("matrix", torch.randn(6, 6, dtype=torch.float64))

    def forward(self, x):
        return self.Function.apply(self.w, self.matrix) * x[:, :1]


def test_a_gradient_that_is_not_the_losss_is_told():
    model = Asymmetric()
    x = torch.ones(4, 1, dtype=torch.float64)
    found = hessian(model, lambda out, _, reduction: out[:, 0], [(x, x)], top=1)
    assert found.self_check.state == "failed"
    assert found.self_check.slope > 0.01
    assert "differs from the slope of the loss" in found.self_check.cause
    assert any(note.startswith("the self-check failed") for note in found.notes)


def test_a_straight_through_estimator_is_told():
    class Rounded(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(16, 3)

        def forward(self, x):
            weight = self.layer.weight
            return F.linear(x.flatten(1), weight + (torch.round(weight * 4) / 4 - weight).detach(), self.layer.bias)

    torch.manual_seed(0)
    model, (x, y) = Rounded().double(), samples()
    found = hessian(model, F.cross_entropy, [(x, y)], top=1)
    assert found.self_check.state == "failed"
    assert any(note.startswith("the self-check failed") for note in found.notes)


@pytest.mark.parametrize("kind", ["hessian", "ggn", "fisher"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NETS)
def test_small_networks_pass(name, dtype, kind):
    model, (x, y) = net(name).to(dtype), samples(name)
    with opened(model, F.cross_entropy, uneven(x.to(dtype), y)) as problem:
        checked = verified(Curvature(problem, kind, weight_decay=0.01))
    assert checked.state == "passed", checked
    assert checked.dtype == "float64"
    assert not checked.near
    assert checked.samples == 14


SHAPES = {"mlp": (1, 8, 8), "cnn": (1, 8, 8), "vit-s16": (3, 32, 32), "vgg11-bn": (3, 32, 32)}
KINDS = ("mlp", "cnn", "resnet18", "resnet20", "resnet56", "resnet32-projection", "wrn28-2", "vgg11-bn", "vit-s16")


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_networks_with_kinks_raise_no_alarm(name):
    """In float32, as users have them; with ReLU, where differences meet kinks."""
    torch.manual_seed(0)
    shape = SHAPES.get(name, (3, 16, 16))
    model = MODELS[name](shape, 10)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(8, *shape, generator=generator), torch.randint(10, (8,), generator=generator)
    model.train()
    model(x)
    with opened(model, F.cross_entropy, [(x, y)]) as problem:
        operator = Curvature(problem)
        checked = verified(operator)
    assert checked.state == "passed", checked
    assert operator.notes == []


@pytest.mark.slow
def test_many_random_relu_networks_raise_no_alarm():
    for seed in range(60):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3))
        x, y = torch.randn(40, 6), torch.randint(3, (40,))
        with opened(model, F.cross_entropy, [(x, y)]) as problem:
            checked = verified(Curvature(problem))
        assert checked.state == "passed", (seed, checked)


def test_zero_weights_on_a_kink_are_looked_at_from_beside():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    for p in model[1].parameters():
        nn.init.zeros_(p)
    x, y = samples()
    found = hessian(model, F.cross_entropy, [(x, y)], top=1)
    assert found.self_check.state == "passed"


def test_it_costs_a_few_passes_of_a_few_samples():
    model, (x, y) = net("mlp"), samples()
    work = {}
    for checked in (True, False):
        found = hessian(model, F.cross_entropy, [(x, y)] * 5, top=1, self_check=checked)
        work[checked] = found.forwards, found.backwards, found.products
    assert work[True][2] == work[False][2]
    assert 0 < work[True][0] - work[False][0] <= 7 * 32
    assert 0 < work[True][1] - work[False][1] <= 10 * 32


def test_every_block_of_layers_is_checked():
    from sharpkit.diagnostics.curvature.analysis import Wanted
    from sharpkit.diagnostics.curvature.spectrum import of_layers

    model, (x, y) = net("mlp"), samples()
    with opened(model, F.cross_entropy, [(x, y)]) as problem:
        layers = of_layers(problem, Wanted(top=1, trace=None))
    assert [found.self_check.state for found in layers.values()] == ["passed", "passed"]
    assert all(math.isfinite(found.self_check.difference) for found in layers.values())

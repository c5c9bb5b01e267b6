"""Functions that others compute while a loss is differentiated: the same values, and right second derivatives."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, weight_norm
from torch.utils.checkpoint import checkpoint

from sharpkit.diagnostics import hessian, landscape, sharpness
from sharpkit.diagnostics.substitutes import differentiable_twice
from tests.core.support import bits
from tests.diagnostics.support import samples

X = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TABLE = torch.randn(7, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
WEIGHTS = torch.rand(2, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + 0.5
BAGS = torch.tensor([[0, 1, 1], [6, 3, 2]])
FLAT, STARTS = torch.tensor([0, 1, 1, 6, 3]), torch.tensor([0, 2, 2])
CLASSES = torch.tensor([0, 4, 2, 2])

FUNCTIONS = {
    "hardsigmoid": (lambda x: F.hardsigmoid(2 * x), X),
    "hardsigmoid in place": (lambda x: F.hardsigmoid(2 * x, inplace=True), X),
    "hardswish": (lambda x: F.hardswish(2 * x), X),
    "hardswish in place": (lambda x: F.hardswish(2 * x, inplace=True), X),
    "bags by sum": (lambda t: F.embedding_bag(BAGS, t, mode="sum"), TABLE),
    "bags by mean": (lambda t: F.embedding_bag(BAGS, t), TABLE),
    "bags by max": (lambda t: F.embedding_bag(BAGS, t, mode="max"), TABLE),
    "bags at offsets, one empty": (lambda t: F.embedding_bag(FLAT, t, STARTS), TABLE),
    "bags with the last offset": (
        lambda t: F.embedding_bag(FLAT, t, torch.tensor([0, 2, 5]), mode="sum", include_last_offset=True), TABLE),
    "weighted bags": (lambda t: F.embedding_bag(BAGS, t, mode="sum", per_sample_weights=WEIGHTS), TABLE),
    "weights of bags": (lambda w: F.embedding_bag(BAGS, TABLE, mode="sum", per_sample_weights=w), WEIGHTS),
    "padded bags": (lambda t: F.embedding_bag(BAGS, t, padding_idx=1), TABLE),
    "sparse bags": (lambda t: F.embedding_bag(BAGS, t, sparse=True), TABLE),
    "multi-margin": (lambda x: F.multi_margin_loss(x, CLASSES, reduction="none"), X),
    "squared multi-margin": (lambda x: F.multi_margin_loss(x, CLASSES, p=2, margin=0.7), X),
    "weighted multi-margin": (
        lambda x: F.multi_margin_loss(x, CLASSES, weight=torch.arange(1.0, 6).double(), reduction="sum"), X),
}  # fmt: skip


def gradient(function, x, *, create_graph=False):
    x = x if x.requires_grad else x.clone().requires_grad_()
    value = function(x)
    loss = (value.square() + torch.linspace(-1, 1, value.numel(), dtype=x.dtype).view_as(value) * value).sum()
    (found,) = torch.autograd.grad(loss, x, create_graph=create_graph)
    return found.to_dense() if found.is_sparse else found


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_and_first_derivatives_are_torchs(name):
    function, x = FUNCTIONS[name]
    value, slope = function(x.clone()), gradient(function, x)
    with differentiable_twice():
        torch.testing.assert_close(function(x.clone()), value, rtol=1e-12, atol=1e-14)
        # torch's own derivative of hardsigmoid multiplies by 1 / 6 in single precision.
        rounding = 1e-7 if "hardsigmoid" in name else 1e-12
        torch.testing.assert_close(gradient(function, x), slope, rtol=rounding, atol=1e-14)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_second_derivatives_are_differences_of_torchs_first_ones(name):
    function, x = FUNCTIONS[name]
    vector = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=x.dtype)
    step = 1e-6
    expected = (gradient(function, x + step * vector) - gradient(function, x - step * vector)) / (2 * step)
    with differentiable_twice():
        at = x.clone().requires_grad_()
        (found,) = torch.autograd.grad(gradient(function, at, create_graph=True), at, vector)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def normed(layer, dim, style):
    return weight_norm(layer, dim=dim) if style == "hook" else parametrizations.weight_norm(layer, dim=dim)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
@pytest.mark.parametrize(("style", "dim"), list(itertools.product(["hook", "parametrization"], [0, 1, None])))
def test_weight_norm_has_the_eigenvalues_of_the_dense_hessian(style, dim):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), normed(nn.Linear(16, 4), dim, style), nn.Tanh(), normed(nn.Linear(4, 3), dim, style)
    )
    model = model.double()
    x, y = samples()
    before = bits(model.state_dict())
    names = [name for name, _ in model.named_parameters()]
    shapes = [p.shape for p in model.parameters()]

    def loss(flat):
        parts = dict(zip(names, flat.split([s.numel() for s in shapes]), strict=True))
        hidden = x.flatten(1)
        for layer in ("1", "3"):
            own = [(name, shape) for name, shape in zip(names, shapes, strict=True) if name.startswith(layer)]
            values = {name.rpartition(".")[2]: parts[name].view(shape) for name, shape in own}
            g, v = (values[k] for k in (("weight_g", "weight_v") if style == "hook" else ("original0", "original1")))
            norm = v.square().sum().sqrt() if dim is None else v.square().sum(1 - dim, keepdim=True).sqrt()
            hidden = hidden @ (v * (g / norm)).T + values["bias"]
            hidden = hidden.tanh() if layer == "1" else hidden
        return F.cross_entropy(hidden, y)

    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    exact = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, flat))
    found = hessian(model, F.cross_entropy, [(x, y)], top=4, tol=1e-8, trace="deflated")
    np.testing.assert_allclose(found.eigenvalues, exact.flip(0)[:4].numpy(), rtol=1e-6)
    assert abs(found.trace.value - float(exact.sum())) < 5 * found.trace.error + 1e-9
    assert found.self_check.state == "passed"
    assert found.notes == ()
    assert bits(model.state_dict()) == before


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.a, self.b, self.c, self.reentrant = nn.Linear(16, 4), nn.Linear(4, 4), nn.Linear(4, 3), reentrant

    def forward(self, x):
        hidden = torch.tanh(self.a(x.flatten(1)))
        if self.reentrant is None:
            return self.c(torch.tanh(self.b(hidden)))
        return self.c(torch.tanh(checkpoint(self.b, hidden, use_reentrant=self.reentrant)))


DIAGNOSTICS = {
    "hessian": lambda m, x, y: hessian(m, F.cross_entropy, [(x, y)], top=3, tol=1e-8).eigenvalues,
    "ggn": lambda m, x, y: hessian(m, F.cross_entropy, [(x, y)], top=3, tol=1e-8, kind="ggn").eigenvalues,
    "sharpness": lambda m, x, y: [sharpness(m, F.cross_entropy, [(x, y)], steps=3, directions=2).ascent.value],
    "landscape": lambda m, x, y: landscape(m, F.cross_entropy, [(x, y)], x=(-1.0, 1.0), y=None).loss,
}


@pytest.mark.parametrize("diagnostic", ["hessian", "ggn", "sharpness", "landscape"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_models_are_measured_as_plain_ones(diagnostic, reentrant):
    found = []
    for mode in (None, reentrant):
        torch.manual_seed(0)
        found.append(DIAGNOSTICS[diagnostic](Checkpointed(mode).double(), *samples()))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_differentiated_in_float32_at_the_same_weights(dtype):
    torch.manual_seed(0)
    half = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)
    single = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.Tanh(), nn.Linear(5, 3))
    single.load_state_dict({name: value.float() for name, value in half.state_dict().items()})
    x, y = samples()
    x = x.to(dtype)
    found, expected = (hessian(m, F.cross_entropy, [(i, y)], top=3) for m, i in ((half, x), (single, x.float())))
    np.testing.assert_allclose(found.eigenvalues, expected.eigenvalues, rtol=1e-4)
    assert any("derivatives are computed in float32" in note for note in found.notes)
    assert all(p.dtype == dtype for p in half.parameters())


@pytest.mark.slow
def test_mobilenet_v3_has_exact_second_derivatives():
    """It was left to finite differences for its hardswish and hardsigmoid."""
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    model = models.mobilenet_v3_small(num_classes=5)
    model.train()
    x, y = torch.randn(6, 3, 32, 32), torch.randint(5, (6,))
    for _ in range(3):
        model(x)
    found = hessian(model.eval().double(), F.cross_entropy, [(x.double(), y)], top=1, tol=1e-4)
    assert found.how.startswith("autograd")
    assert found.self_check.state == "passed"
    slow = hessian(model, F.cross_entropy, [(x.double(), y)], top=1, tol=1e-4, products="fd")
    np.testing.assert_allclose(found.eigenvalues, slow.eigenvalues, rtol=1e-3)

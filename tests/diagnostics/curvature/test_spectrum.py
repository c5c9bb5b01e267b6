"""The spectrum of small networks and of losses whose Hessian is known in closed form."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpkit.data import DATASETS
from sharpkit.diagnostics import hessian
from sharpkit.errors import UsageError
from sharpkit.models import MODELS
from tests.core.support import bits
from tests.diagnostics.support import NETS, dense, net, samples, uneven


class Scale(nn.Module):
    """One parameter that multiplies the outputs."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))

    def forward(self, x):
        return self.factor * x


@pytest.mark.parametrize("kind", NETS)
def test_eigenvalues_of_small_networks(kind):
    model, (x, y) = net(kind), samples(kind)
    exact = np.linalg.eigvalsh(dense(model, x, y).detach().numpy())[::-1]
    found = hessian(model, F.cross_entropy, uneven(x, y), tol=1e-9, bottom=2)
    np.testing.assert_allclose(found.eigenvalues, exact[:5], rtol=1e-8)
    np.testing.assert_allclose(found.smallest.values, exact[-2:], rtol=1e-8)
    assert found.converged.all()
    assert found.ratio == pytest.approx(exact[0] / exact[4], rel=1e-8)
    assert (found.samples, found.parameters, found.bn_mode) == (20, len(exact), "eval")
    assert found.loss == pytest.approx(F.cross_entropy(model.eval()(x), y).item())


def test_how_the_samples_are_batched_changes_nothing():
    model, (x, y) = net("cnn"), samples()
    one = hessian(model, F.cross_entropy, [(x, y)], tol=1e-10)
    many = hessian(model, F.cross_entropy, uneven(x, y, (15, 4, 1)), tol=1e-10)
    np.testing.assert_allclose(one.eigenvalues, many.eigenvalues, rtol=1e-9)


def test_linear_regression():
    """L = 1/2N sum |W x - y|^2 over outputs has the Hessian I (x) X^T X / N."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 6, generator=generator, dtype=torch.float64)
    targets = torch.randn(50, 2, generator=generator, dtype=torch.float64)
    loss = lambda out, y, reduction: 0.5 * (out - y).square().sum(1)  # noqa: E731
    found = hessian(nn.Linear(6, 2, bias=False).double(), loss, uneven(x, targets, (20, 30)), top=6, block=2, tol=1e-10)
    exact = np.repeat(np.linalg.eigvalsh((x.T @ x / 50).numpy())[::-1], 2)
    np.testing.assert_allclose(found.eigenvalues, exact[:6], rtol=1e-8)


def test_logistic_regression():
    """L = mean log(1 + exp(-y w.x)) has the Hessian X^T diag(p (1 - p)) X / N."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(80, 9, generator=generator, dtype=torch.float64)
    y = torch.randint(2, (80, 1), generator=generator).double()
    model = nn.Linear(9, 1, bias=False).double()
    p = torch.sigmoid(model(x)).detach()
    exact = np.linalg.eigvalsh((x.T @ (p * (1 - p) * x) / 80).numpy())[::-1]
    loss = lambda out, y, reduction: F.binary_cross_entropy_with_logits(out, y, reduction=reduction)  # noqa: E731
    for kind in ("hessian", "ggn"):
        found = hessian(model, loss, [(x, y)], kind=kind, tol=1e-10, top=9)
        np.testing.assert_allclose(found.eigenvalues, exact, rtol=1e-8)


def test_float64_of_a_float32_model():
    model, (x, y) = net("cnn").float(), samples()
    exact = np.linalg.eigvalsh(dense(net("cnn"), x, y).detach().numpy())[::-1]
    before = bits(model.state_dict())
    found = hessian(model, F.cross_entropy, [(x.float(), y)], dtype=torch.float64, tol=1e-9)
    assert found.dtype == "float64"
    np.testing.assert_allclose(found.eigenvalues, exact[:5], rtol=1e-5)
    assert bits(model.state_dict()) == before
    single = hessian(model, F.cross_entropy, [(x.float(), y)])
    assert single.dtype == "float32"
    np.testing.assert_allclose(single.eigenvalues, found.eigenvalues, rtol=1e-4)


def test_trace_and_density_come_from_the_same_basis():
    model, (x, y) = net("mlp"), samples()
    matrix = dense(model, x, y).detach()
    found = hessian(model, F.cross_entropy, uneven(x, y), density=True, steps=30, runs=3, trace="deflated")
    assert abs(found.trace.value - float(matrix.trace())) <= 4 * found.trace.error + 1e-9
    assert len(found.trace.parts) == len(found.names)
    assert [len(n) for n in found.density.nodes] == [30, 30, 30]
    assert all(w.sum() == pytest.approx(1) for w in found.density.weights)
    assert found.products <= 30 * 3 + 5 + found.trace.samples + 70


def test_work_is_counted_in_samples():
    """The lead and the graphs take a pass, the probe of their size one of a batch, a product half of one."""
    x, y = samples("cnn")
    found = hessian(net("cnn"), F.cross_entropy, uneven(x, y), top=2, self_check=False)
    assert found.forwards == 20 + 20 + 7
    assert found.backwards == 20 + 20 + 2 * 7 + 20 * found.products
    found = hessian(net("cnn"), F.cross_entropy, uneven(x, y), top=2, kind="ggn", memory_bytes=1, self_check=False)
    assert found.forwards == 20 + 7 + 20 * found.products
    assert found.backwards == 20 + 3 * 7 + 3 * 20 * found.products


def test_a_basis_that_nothing_is_taken_from_takes_no_lead():
    x, y = samples("cnn")
    for trace, lead in ((None, 0), ("hutchinson", 0), ("deflated", 20)):
        found = hessian(
            net("cnn"), F.cross_entropy, uneven(x, y), top=2, backend="scipy", trace=trace, self_check=False
        )
        assert found.backwards - 20 * found.products == lead + 20 + 2 * 7


def test_weight_decay_moves_every_eigenvalue():
    model, (x, y) = net("mlp"), samples()
    plain = hessian(model, F.cross_entropy, [(x, y)], tol=1e-10)
    decayed = hessian(model, F.cross_entropy, [(x, y)], tol=1e-10, weight_decay=0.5)
    np.testing.assert_allclose(decayed.eigenvalues, plain.eigenvalues + 0.5, rtol=1e-8)


def test_error_bars_are_those_of_the_quotients():
    model, (x, y) = net("mlp"), samples(count=64)
    found = hessian(model, F.cross_entropy, [(x, y)], tol=1e-9, error_bars=True)
    quotients = [
        [float(v @ dense(model, a, b).detach() @ v) for a, b in zip(x.split(4), y.split(4), strict=True)]
        for v in found.vectors
    ]
    np.testing.assert_allclose(found.errors, np.std(quotients, axis=1, ddof=1) / 4, rtol=1e-6)
    assert np.isnan(hessian(model, F.cross_entropy, [(x, y)]).errors).all()


def test_a_small_memory_restarts_and_finds_the_same():
    model, (x, y) = net("mlp"), samples()
    exact = hessian(model, F.cross_entropy, [(x, y)], tol=1e-9)
    tight = hessian(model, F.cross_entropy, [(x, y)], tol=1e-9, memory_bytes=2 * 18 * exact.parameters * 8)
    np.testing.assert_allclose(tight.eigenvalues, exact.eigenvalues, rtol=1e-8)


def test_what_was_found_when_it_is_stopped():
    model, (x, y) = net("mlp"), samples()
    seen = []

    def watch(products, largest):
        seen.append((products, largest))
        return products < 12

    found = hessian(model, F.cross_entropy, [(x, y)], tol=1e-9, density=True, trace="deflated", watch=watch)
    assert (found.complete, found.products, found.trace) == (False, 12, None)
    assert [products for products, _ in seen] == list(range(1, 13))
    exact = np.linalg.eigvalsh(dense(model, x, y).detach().numpy())[::-1]
    good = found.converged
    np.testing.assert_allclose(found.eigenvalues[good], exact[:5][good], rtol=1e-8)
    assert (f"{(~good).sum()} of 5 eigenvalues are not converged" in found.notes) == (not good.all())


def test_the_start_of_it_is_no_eigenvalue():
    model, (x, y) = net("mlp"), samples()
    found = hessian(model, F.cross_entropy, [(x, y)], top=1, tol=1e-9, watch=lambda products, _: products < 2)
    assert (found.complete, found.converged.tolist()) == (False, [False])
    assert "1 of 1 eigenvalues are not converged" in found.notes


def test_the_seed_decides_and_nothing_else_moves():
    model, (x, y) = net("mlp"), samples()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, two = (hessian(model, F.cross_entropy, [(x, y)], trace="hutchinson", seed=3) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert one.trace.value == two.trace.value
    assert (one.eigenvalues == two.eigenvalues).all()


@pytest.mark.parametrize(
    "options",
    [{"top": 0}, {"tol": 0}, {"steps": 1}, {"kind": "other"}, {"products": "x"}, {"block": 2, "density": True},
     {"trace": "x"}, {"kind": "ggn", "products": "fd"}],
)  # fmt: skip
def test_misuse(options):
    with pytest.raises(UsageError):
        hessian(net("mlp"), F.cross_entropy, [samples()], **options)


def test_fewer_eigenvalues_than_asked_for():
    found = hessian(
        nn.Linear(1, 2, bias=False).double(), F.cross_entropy, [(torch.ones(3, 1).double(), torch.ones(3).long())]
    )
    assert len(found.eigenvalues) == 2
    assert math.isnan(found.ratio)


@pytest.mark.parametrize("wanted", [{"top": 7}, {"top": 30}, {"top": 5, "bottom": 5}, {"top": 1, "bottom": 9}])
@pytest.mark.parametrize("density", [False, True])
def test_more_eigenvalues_than_parameters_gives_all_of_them_and_no_doubts(wanted, density):
    """Seven parameters, of which a shift of both outputs and the scale of one layer by the next change nothing."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(12, 2, generator=generator).double(), torch.randint(2, (12,), generator=generator)
    model = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Linear(1, 2), Scale()).double()
    exact = np.linalg.eigvalsh(dense(model, x, y).detach().numpy())[::-1]
    assert len(exact) == 7
    found = hessian(model, F.cross_entropy, [(x, y)], density=density, trace="deflated", **wanted)
    np.testing.assert_allclose(found.eigenvalues, exact[: wanted["top"]], rtol=1e-8, atol=1e-10)
    if "bottom" in wanted:
        np.testing.assert_allclose(found.smallest.values, exact[-wanted["bottom"] :], rtol=1e-8, atol=1e-10)
        assert found.smallest.converged.all()
    assert found.converged.all()
    assert found.none_missing is True
    assert found.notes == ()
    assert (found.trace.value, found.trace.error) == (pytest.approx(exact.sum()), 0)
    if density:
        np.testing.assert_allclose(found.density.exact, exact, rtol=1e-8, atol=1e-10)


def test_a_gpu_would_not_round_and_does_as_before_afterwards():
    """Set for as long as derivatives are taken: torch lets convolutions round to TF32 by default."""
    kinds = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)
    before, seen = [kind.fp32_precision for kind in kinds], []
    hessian(
        net("mlp"), F.cross_entropy, [samples()], watch=lambda *_: not seen.append([k.fp32_precision for k in kinds])
    )
    assert seen[0] == ["ieee"] * 3
    assert [kind.fp32_precision for kind in kinds] == before


@pytest.mark.slow
def test_eleven_million_parameters_in_float32_as_in_float64():
    """ResNet-18: sums over so many entries are where float32 loses digits; a float32 norm is off by 4e-4 there.

    In double precision, by torch alone: |H v - lambda v| bounds how far lambda is from an eigenvalue, and v^T H v is
    far nearer.
    """
    train = DATASETS["digits"]().train
    x, y = F.interpolate(train.inputs[:4], size=32, mode="bilinear").expand(-1, 3, -1, -1), train.targets[:4]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MODELS["resnet18"]((3, 32, 32), 10)
    assert sum(p.numel() for p in model.parameters()) > 11_000_000
    found = hessian(model, F.cross_entropy, [(x, y)], top=2, tol=1e-5, copies=False)
    assert found.dtype == "float32"
    assert found.converged.all()
    model.double().eval()
    params = list(model.parameters())
    grads = torch.autograd.grad(F.cross_entropy(model(x.double()), y), params, create_graph=True)
    for k in range(2):
        vector = found.vectors[k].double()
        vector /= vector.norm()
        parts = torch.split(vector, [p.numel() for p in params])
        slope = sum(g.flatten() @ part for g, part in zip(grads, parts, strict=True))
        image = torch.cat([h.flatten() for h in torch.autograd.grad(slope, params, retain_graph=True)])
        value = float(vector @ image)
        residual = float((image - value * vector).norm())
        assert residual < 1e-5 * value
        assert found.residuals[k] == pytest.approx(residual, rel=0.1, abs=1e-6 * value)  # float32 rounds the product
        assert found.eigenvalues[k] == pytest.approx(value, rel=1e-5)

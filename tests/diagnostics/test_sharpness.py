"""Rises of the loss in a ball: against the exact maximum of quadratics, and plain loops on small networks."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpkit.diagnostics import sharpness
from sharpkit.diagnostics.trust_region import largest_in_ball
from sharpkit.errors import DivergedError, UsageError
from tests.diagnostics.support import net, rotated, samples, uneven

RHO = 0.7


class Quadratic:
    """1/2 (w - c)' A (w - c) + x' w for every sample x, as a task of a layer of one row."""

    def __init__(self, values, seed=0, shift=0.3):
        generator = torch.Generator().manual_seed(seed)
        self.a = rotated(values, seed)
        count = len(values)
        self.model = nn.Linear(count, 1, bias=False).double()
        self.w = self.model.weight.data[0] = torch.randn(count, generator=generator, dtype=torch.float64)
        self.c = self.w - shift * torch.randn(count, generator=generator, dtype=torch.float64)
        self.x = 0.1 * torch.randn(12, count, generator=generator, dtype=torch.float64)

    def outputs(self, batch):
        w = self.model.weight[0]
        return 0.5 * (w - self.c) @ self.a @ (w - self.c) + batch.inputs @ w

    def losses(self, outputs, batch):
        return outputs

    @property
    def batches(self):
        return [(self.x[:5], torch.zeros(5)), (self.x[5:], torch.zeros(7))]

    def gradient(self, x=None):
        return (self.a @ (self.w - self.c) + (self.x if x is None else x).mean(0)).numpy()


def trust_region(a, g, radius):
    """max g'e + 1/2 e'Ae over |e| <= radius, from the secular equation of (mu I - A) e = g, mu >= max(0, lambda_1)."""
    values, vectors = np.linalg.eigh(a)
    b = vectors.T @ g

    def length(mu):
        return np.sqrt(((b / (mu - values)) ** 2).sum())

    low = max(0.0, values[-1])
    if low > values[-1] and length(low) <= radius:
        mu = low
    else:
        low, high = low + 1e-14 * max(1, abs(low)), low + np.linalg.norm(g) / radius + 1
        for _ in range(200):
            mid = (low + high) / 2
            low, high = (mid, high) if length(mid) > radius else (low, mid)
        mu = high
    e = vectors @ (b / (mu - values))
    return g @ e + 0.5 * e @ a @ e


SPECTRA = {
    "convex": (4.0, 2.0, 1.0, 0.5, 0.1),
    "indefinite": (3.0, 1.0, 0.2, -2.0, -5.0),
    "concave, maximum inside": (-1.0, -2.0, -3.0, -4.0, -8.0),
    "concave, maximum on the sphere": (-0.05, -0.1, -0.2, -0.3, -0.4),
    "flat": (0.0, 0.0, 0.0, 0.0, 0.0),
}


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_ascent_finds_the_exact_maximum_of_a_quadratic(spectrum):
    task = Quadratic(SPECTRA[spectrum])
    found = sharpness(task.model, task, task.batches, f"sam:rho={RHO}", steps=120, restarts=2)
    exact = trust_region(task.a.numpy(), task.gradient(), RHO)
    assert found.ascent.value == pytest.approx(exact, rel=1e-7)
    g = task.gradient()
    e = RHO * g / np.linalg.norm(g)
    assert found.one_step.value == pytest.approx(g @ e + 0.5 * e @ task.a.numpy() @ e, rel=1e-10)
    assert found.ascent.value >= found.one_step.value
    assert found.starts.max() == pytest.approx(found.ascent.value, rel=1e-10)


def test_in_the_metric_of_asam_it_is_the_maximum_in_an_ellipsoid():
    task = Quadratic(SPECTRA["indefinite"])
    found = sharpness(task.model, task, task.batches, f"asam:rho={RHO}", steps=120, restarts=2)
    t = task.w.abs().numpy() + 0.01
    exact = trust_region(t[:, None] * task.a.numpy() * t, t * task.gradient(), RHO)
    assert found.ascent.value == pytest.approx(exact, rel=1e-7)
    e = RHO * t * t * task.gradient() / np.linalg.norm(t * task.gradient())
    assert found.one_step.value == pytest.approx(task.gradient() @ e + 0.5 * e @ task.a.numpy() @ e, rel=1e-10)


def test_the_average_over_directions_is_half_the_mean_eigenvalue():
    task = Quadratic(SPECTRA["convex"])
    found = sharpness(task.model, task, task.batches, f"sam:rho={RHO}", steps=1, directions=1500)
    expected = 0.5 * RHO**2 * np.mean(SPECTRA["convex"])
    assert abs(found.average.value - expected) < 4 * found.average.error
    assert found.average.error < 0.1 * expected
    assert found.average.error == pytest.approx(found.directions.std(ddof=1) / math.sqrt(1500))


def test_m_sharpness_is_the_mean_of_the_pieces():
    task = Quadratic(SPECTRA["convex"])
    one, all_of_them = (
        sharpness(task.model, task, task.batches, f"sam:rho={RHO}", steps=1, directions=0, m=m) for m in (1, 12)
    )
    rises = []
    for x in task.x:
        g = task.gradient(x[None])
        e = RHO * g / np.linalg.norm(g)
        rises.append(g @ e + 0.5 * e @ task.a.numpy() @ e)
    assert one.m_sharpness.value == pytest.approx(np.mean(rises), rel=1e-10)
    assert one.m_sharpness.error == pytest.approx(np.std(rises, ddof=1) / math.sqrt(12), rel=1e-8)
    assert all_of_them.m_sharpness.value == pytest.approx(all_of_them.one_step.value, rel=1e-12)
    # The mean of maxima is not below the maximum of the mean.
    more = [sharpness(task.model, task, task.batches, f"sam:rho={RHO}", steps=100, directions=0, m=m, m_steps=100)
            for m in (1, 12)]  # fmt: skip
    assert more[0].m_sharpness.value > more[1].m_sharpness.value
    assert more[1].m_sharpness.value == pytest.approx(more[1].ascent.value, rel=1e-9)


@pytest.mark.parametrize("kind", ["mlp", "cnn", "attention"])
@pytest.mark.parametrize("bn_mode", ["eval", "train"])
def test_on_a_network_it_is_what_a_plain_loop_finds(kind, bn_mode):
    model, (x, y) = net(kind), samples(kind)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = sharpness(model, F.cross_entropy, [(x, y)], "sam:rho=0.3", steps=30, directions=3, m=5, bn_mode=bn_mode)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    model.train(bn_mode == "train")
    params = list(model.parameters())
    losses = F.cross_entropy(model(x), y, reduction="none")
    g = torch.autograd.grad(losses.mean(), params)
    length = torch.cat([t.flatten() for t in g]).norm()
    with torch.no_grad():
        for p, t in zip(params, g, strict=True):
            p.add_(0.3 * t / length)
        rises = F.cross_entropy(model(x), y, reduction="none") - losses
    assert found.one_step.value == pytest.approx(rises.mean().item(), rel=1e-8)
    assert found.one_step.error == pytest.approx(rises.std().item() / math.sqrt(20), rel=1e-8)
    assert found.ascent.value > found.one_step.value
    assert found.loss == pytest.approx(losses.mean().item(), rel=1e-10)


def test_pieces_of_the_data_do_not_show():
    model, (x, y) = net("cnn"), samples("cnn")
    whole = sharpness(model, F.cross_entropy, [(x, y)], steps=5, m=4)
    cut = sharpness(model, F.cross_entropy, uneven(x, y), steps=5, m=4)
    for a, b in zip((whole.ascent, whole.average, whole.m_sharpness), (cut.ascent, cut.average, cut.m_sharpness),
                    strict=True):  # fmt: skip
        assert (b.value, b.error) == pytest.approx((a.value, a.error), rel=1e-8)


def test_asam_without_eta_does_not_change_where_weights_are_rescaled():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3)).double()
    batch = [(torch.randn(30, 6, dtype=torch.float64), torch.randint(3, (30,)))]
    rules = ("asam:rho=0.1:eta=0:scope=all", "sam:rho=0.1")
    before = [sharpness(model, F.cross_entropy, batch, rule, steps=10, directions=0).ascent.value for rule in rules]
    with torch.no_grad():
        model[0].weight.mul_(5)
        model[0].bias.mul_(5)
        model[2].weight.div_(5)
    after = [sharpness(model, F.cross_entropy, batch, rule, steps=10, directions=0).ascent.value for rule in rules]
    assert after[0] == pytest.approx(before[0], rel=1e-9)
    assert after[1] > 1.5 * before[1]


def test_norm_layers_alone_may_be_perturbed():
    model, (x, y) = net("cnn"), samples("cnn")
    found = sharpness(model, F.cross_entropy, [(x, y)], "sam-on:rho=0.3", steps=20)
    all_of_it = sharpness(model, F.cross_entropy, [(x, y)], "sam:rho=0.3", steps=20)
    assert 0 < found.one_step.value <= found.ascent.value < all_of_it.ascent.value


def test_stopping_gives_what_is_there():
    model, (x, y) = net("mlp"), samples("mlp")
    found = sharpness(model, F.cross_entropy, [(x, y)], steps=10, watch=lambda done, _: done < 6)
    assert found.complete is False
    assert found.ascent.value >= found.one_step.value > 0
    assert len(found.starts) == 1
    assert math.isnan(found.average.value)


@pytest.mark.parametrize("rule", ["vasso", "ssam-f", "msam", "esam", "bisam-log", "sgd", "sampa"])
def test_a_recipe_that_is_no_ball_is_refused(rule):
    model, (x, y) = net("cnn"), samples("cnn")
    with pytest.raises(UsageError, match=r"largest loss in a ball|never perturbs|needs past"):
        sharpness(model, F.cross_entropy, [(x, y)], rule)


def test_what_is_not_allowed():
    model, batch = net("mlp"), samples("mlp")
    for options in ({"steps": 0}, {"restarts": -1}, {"m": 0}, {"m_steps": 0}, {"directions": -1}):
        with pytest.raises(UsageError, match="allowed is"):
            sharpness(model, F.cross_entropy, [batch], **options)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    with pytest.raises(DivergedError, match="not finite"):
        sharpness(linear, F.cross_entropy, [(batch[0].float(), batch[1])], "sam:rho=1e38")


# ---------------------------------------------------------------------- the trust-region problem


def exact_maximum(a, g, radius):
    """max g'e + 1/2 e'Ae over |e| <= radius by eigenvalues and the secular equation, the hard case too; and e."""
    values, vectors = np.linalg.eigh(a)
    b = vectors.T @ g
    leading = values >= values[-1] - 1e-9 * np.abs(values).max()
    if values[-1] < 0 and np.linalg.norm(b / values) <= radius:
        e = -b / values
    elif values[-1] >= 0 and np.linalg.norm(b[leading]) <= 1e-12 * np.linalg.norm(b) + 1e-300:
        e = np.where(leading, 0, b / np.where(leading, 1, values[-1] - values))
        if np.linalg.norm(e) < radius:  # the hard case
            e[-1] = math.sqrt(radius**2 - e @ e)
        else:
            e = b / (_multiplier(values, b, radius) - values)
    else:
        e = b / (_multiplier(values, b, radius) - values)
    return b @ e + 0.5 * values @ e**2, vectors @ e


def _multiplier(values, b, radius):
    """The mu above all eigenvalues and zero for which sum (b_i / (mu - lambda_i))^2 is the radius squared."""
    low = max(0.0, values[-1])
    high = low + np.linalg.norm(b) / radius
    for _ in range(400):
        middle = (low + high) / 2
        inside = middle > values[-1] and ((b / (middle - values)) ** 2).sum() <= radius**2
        low, high = (low, middle) if inside else (middle, high)
    return high


def drawn_quadratic(count, shift, seed):
    """A random indefinite quadratic, and its gradient at the weights, which with a shift of None is the hard case."""
    values = tuple(np.random.default_rng(seed).normal(size=count) * 3)
    task = Quadratic(values, seed=seed, shift=0.02 if shift is None else shift)
    if shift is None:  # nothing along the leading eigenvector
        top = torch.linalg.eigh(task.a)[1][:, -1]
        task.x = task.x - torch.outer(task.x @ top, top)
        task.c = task.w - (task.w - task.c) + ((task.w - task.c) @ top) * top
    return task


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("kind", ["indefinite", "hard case", "negative", "flat", "no slope", "multiple"])
def test_the_small_problem_is_solved_exactly(count, kind):
    for seed in range(5):
        generator = np.random.default_rng(seed)
        values = generator.normal(size=count)
        if kind == "negative":
            values = -np.abs(values) - 0.5
        if kind == "flat":
            values = 0 * values
        if kind == "multiple":
            values[-3:] = 1.5
        basis = np.linalg.qr(generator.normal(size=(count, count)))[0]
        b = generator.normal(size=count) * (kind != "no slope")
        if kind == "hard case":
            b[np.argmax(values)] = 0
        a, g, radius = basis @ np.diag(values) @ basis.T, basis @ b, 10 ** generator.uniform(-2, 1)
        e = largest_in_ball((a + a.T) / 2, g, radius)
        assert np.linalg.norm(e) <= radius * (1 + 1e-9)
        wanted, _ = exact_maximum((a + a.T) / 2, g, radius)
        assert g @ e + 0.5 * e @ a @ e == pytest.approx(wanted, rel=1e-9, abs=1e-12)
        for u in generator.normal(size=(200, count)):  # an oracle of its own: nothing drawn is higher
            u = u * radius * generator.uniform() ** (1 / count) / np.linalg.norm(u)
            assert g @ u + 0.5 * u @ a @ u <= wanted + 1e-9 * abs(wanted) + 1e-12


SHORT = 2e-3
"""What 20 gradients and one restart miss at most of the maximum of the quadratics below."""


@pytest.mark.parametrize(
    ("count", "seeds"), [(5, 1), (20, 1), *(pytest.param(n, 6, marks=pytest.mark.slow) for n in (5, 20, 60))]
)
@pytest.mark.parametrize("shift", [0.3, 0.02, 0.0, None])
def test_the_bound_is_never_above_the_maximum_and_little_below_it_on_indefinite_quadratics(count, shift, seeds):
    for seed in range(seeds):
        task = drawn_quadratic(count, shift, seed)
        for rho in (0.05, 0.7):
            wanted, _ = exact_maximum(task.a.numpy(), task.gradient(), rho)
            found = sharpness(task.model, task, task.batches, f"sam:rho={rho}", directions=0)
            assert -1e-9 <= (wanted - found.ascent.value) / wanted <= SHORT
            if rho > 0.5 and seed < 2:
                found = sharpness(task.model, task, task.batches, f"sam:rho={rho}", steps=120, restarts=2, directions=0)
                assert found.ascent.value == pytest.approx(wanted, rel=1e-10)


def test_overflowing_points_are_not_relied_on():
    """A loss that is infinite, or has no gradient, some way up."""
    (x, y), model = samples("mlp"), net("mlp")

    def steep(outputs, targets, reduction):
        losses = F.cross_entropy(outputs, targets, reduction="none")
        return losses + torch.where(losses > 2.5, math.nan, 0.0) * outputs[:, 0]

    found = sharpness(model, steep, [(x, y)], "sam:rho=0.5", steps=15, restarts=0, directions=0)
    free = sharpness(model, F.cross_entropy, [(x, y)], "sam:rho=0.5", steps=15, restarts=0, directions=0)
    assert found.one_step.value < found.ascent.value < free.ascent.value

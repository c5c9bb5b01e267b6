"""The lattice of identities between variants, exact where arithmetic allows, and two published results."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import nn
from torch.nn import functional as F

from sharpkit import RECIPES, Rule, SharpnessAware, parse
from sharpkit.core.parts import Constant
from sharpkit.core.slots import Ascent, Descent, Metric
from tests.core.support import batch, bits, joint_norm, net, numbered, sharp, trail, weights
from tests.reference import base as numpy_base
from tests.reference.problems import PROBLEMS, flat

BASES = {
    "momentum": lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9, weight_decay=1e-3),
    "adamw": lambda ps: torch.optim.AdamW(ps, lr=0.01),
}
KINDS = ["mlp", "batch-norm", "dropout"]


def run(rule, kind, base, steps=5, dtype=torch.float32, **options):
    model = net(kind, dtype=dtype)
    opt = sharp(rule, model, BASES[base](model.parameters()), **options)
    torch.manual_seed(1)
    for t in range(steps):
        opt.step(batch(8 - t, seed=t, dtype=dtype))
    return model


def plain_loop(kind, base, steps=5):
    """The loop of any PyTorch tutorial."""
    model = net(kind, dtype=torch.float32)
    opt = BASES[base](model.parameters())
    torch.manual_seed(1)
    for t in range(steps):
        x, y = batch(8 - t, seed=t, dtype=torch.float32)
        opt.zero_grad()
        F.cross_entropy(model(x), y).backward()
        opt.step()
    return model


@pytest.mark.parametrize("options", [{}, {"accumulate": 1, "rng": "fresh"}, {"bn_stats": "both"}], ids=str)
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("kind", KINDS)
def test_sgd_is_a_plain_loop_bit_for_bit(kind, base, options):
    assert bits(run("sgd", kind, base, **options).state_dict()) == bits(plain_loop(kind, base).state_dict())


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", ["sam:rho=0", "asam:rho=0", "asam:rho=0:scope=all"])
def test_radius_zero_is_the_base_optimizer_bit_for_bit(rule, kind, base):
    assert bits(run(rule, kind, base).state_dict()) == bits(plain_loop(kind, base).state_dict())


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", ["sampa", "sampa:lam=1", "sampa+asam"])
def test_the_first_step_of_sampa_is_the_base_optimizers(rule, kind, base):
    assert bits(run(rule, kind, base, steps=1).state_dict()) == bits(plain_loop(kind, base, steps=1).state_dict())


@dataclass(frozen=True)
class Ones(Metric):
    def diagonal(self, step, direction):
        return [torch.ones_like(v) for v in direction]


@pytest.mark.parametrize("kind", KINDS)
def test_asam_with_the_identity_as_metric_is_sam(kind):
    identity = replace(RECIPES["asam"](rho=0.2), metric=Ones())
    assert bits(run(identity, kind, "momentum").state_dict()) == bits(run("sam:rho=0.2", kind, "momentum").state_dict())


def test_asam_with_a_large_eta_tends_to_sam_of_the_scaled_radius():
    """T = |w| + eta is eta (1 + |w| / eta), so rho in T is rho eta in the Euclidean norm, up to 1 / eta."""
    asam = run("asam:rho=1e-9:eta=1e8:scope=all", "mlp", "momentum", dtype=torch.float64)
    sam = run("sam:rho=0.1", "mlp", "momentum", dtype=torch.float64)
    torch.testing.assert_close(weights(asam), weights(sam), rtol=0, atol=1e-7)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("rho", [0.0, 5.0])
def test_sampa_with_lam_one_is_the_optimistic_gradient_step(problem, rho):
    """u_t = grad f(y_{t+1}; B_t) with y_{t+1} stepped along the u before: the perturbation has no part in it."""
    problem, base = PROBLEMS[problem](), numpy_base.SGD(0.1, momentum=0.9)
    u, w = None, problem.start
    for t in range(8):
        u = problem.gradient(w if u is None else base.peek(w, u), t, clean=True)
        w = base.step(w, u)
    opt = SharpnessAware(
        problem.model,
        torch.optim.SGD(problem.model.parameters(), lr=0.1, momentum=0.9),
        f"sampa:lam=1:rho={rho}",
        loss=problem.loss,
    )
    for t in range(8):
        opt.step(problem.batch(t))
    np.testing.assert_allclose(flat(problem.model), w, rtol=0, atol=1e-11)


class Reordered(nn.Module):
    """One function, whose parameters are listed in either order."""

    def __init__(self, backwards):
        super().__init__()
        layers = dict(zip(("a", "b"), (net()[0], net()[2]), strict=True))
        for name in reversed(layers) if backwards else layers:
            self.add_module(name, layers[name])

    def forward(self, x):
        return self.b(self.a(x).tanh())


UNORDERED = [name for name in [*RECIPES, "sampa+asam"] if name not in ("sam-on", "esam", "ssam-d")]


@pytest.mark.parametrize("rule", UNORDERED)
def test_the_order_of_parameters_does_not_matter(rule):
    ends = []
    for backwards in (False, True):
        model = Reordered(backwards)
        params = list(model.parameters())[:: -1 if backwards else 1]
        opt = sharp(rule, model, torch.optim.SGD(params, lr=0.1, momentum=0.9))
        for t in range(5):
            opt.step(numbered(seed=t))
        ends.append(dict(model.state_dict()))
    torch.testing.assert_close(ends[0], {key: ends[1][key] for key in ends[0]}, rtol=0, atol=1e-13)


@pytest.mark.parametrize("factor", [1e-4, 3.0, 1e6])
@pytest.mark.parametrize("rule", ["sam:rho=0.5", "asam:rho=0.5", "asam:rho=0.5:scope=all:eta=0"])
def test_the_perturbation_does_not_depend_on_the_scale_of_the_loss(rule, factor):
    seen = []
    for scale in (1.0, factor):
        model = net()
        path = trail(model)
        loss = lambda o, t, reduction, scale=scale: scale * F.cross_entropy(o, t, reduction=reduction)  # noqa: E731
        sharp(rule, model, loss=loss).step(batch())
        seen.append([b - a for a, b in zip(path[0], path[1], strict=True)])
    torch.testing.assert_close(seen[0], seen[1], rtol=0, atol=1e-7)  # delta = 1e-12 beside a norm of 1e-4


class Vector(nn.Module):
    """The model whose outputs are its one parameter, so that a linear loss has any gradient one likes."""

    def __init__(self, w):
        super().__init__()
        self.weight = nn.Parameter(torch.as_tensor(w))

    def forward(self, x):
        return x * self.weight


def linear(outputs, targets, reduction):
    return outputs.sum(1)


NUMBERS = st.floats(1e-3, 1e3) | st.floats(-1e3, -1e-3) | st.just(0.0)
VECTORS = arrays.arrays(np.float64, 7, elements=NUMBERS)


@given(VECTORS, VECTORS.filter(np.any), st.floats(1e-3, 10), st.sampled_from(["sam", "asam", "bare-asam"]))
def test_the_perturbation_has_length_rho_in_its_metric(w, g, rho, name):
    """And maximises the linear model: among that ball's vectors none has a larger product with g."""
    text, T = {  # noqa: N806
        "sam": (f"sam:rho={rho}", np.ones(7)),
        "asam": (f"asam:rho={rho}:eta=0.01", np.abs(w) + 0.01),
        "bare-asam": (f"asam:rho={rho}:eta=1:scope=all", np.abs(w) + 1),
    }[name]
    model = Vector(w.copy())
    seen = trail(model)
    sharp(text, model, loss=linear).step((torch.from_numpy(g)[None], None))
    eps = (seen[1][0] - seen[0][0]).numpy()
    size = 1e-12 * (np.abs(w).max() + 1) / T.min()
    assert np.linalg.norm(eps / T) == pytest.approx(rho, rel=1e-6, abs=size)
    assert eps @ g == pytest.approx(rho * np.linalg.norm(T * g), rel=1e-6, abs=size * np.abs(g).sum() * T.max())


def bowl(outputs, targets, reduction):
    """F(w) = ||w||^2, whatever the data."""
    return (outputs**2).sum(1)


@dataclass(frozen=True)
class PreviousClimb(Ascent):
    """ "OptSAM": climb the perturbed gradient of the step before."""

    def direction(self, step):
        if "h" in step.memory:
            return step.memory["h"]
        return step.here.grad


@dataclass(frozen=True)
class Remembering(Descent):
    def perturbed(self, step, there):
        step.memory["h"] = [g.clone() for g in there.grad]
        _ = step.here.grad
        return there.grad

    def plain(self, step):
        raise NotImplementedError


TOY = {
    "sam": (parse("sam:rho=0.1"), 4.9e-4),
    "sampa-0": (parse("sampa:rho=0.1:lam=0"), 1.4e-3),
    "sampa-0.5": (parse("sampa:rho=0.1:lam=0.5"), 3.3e-4),
    "opt-sam": (Rule("opt-sam", ascent=PreviousClimb(), descent=Remembering(), radius=Constant(0.1)), 8.0e-3),
}


@pytest.mark.parametrize("name", TOY)
def test_floors_of_the_quadratic_bowl(name):
    """||x||^2 with eta = rho = 0.1: the published floors of ||grad f||^2; SAM's is exactly (2 / 90)^2."""
    rule, floor = TOY[name]
    model = Vector(torch.tensor([0.6, -0.8], dtype=torch.float64))
    opt = SharpnessAware(model, torch.optim.SGD(model.parameters(), lr=0.1), rule, loss=bowl)
    largest = 0.0
    for t in range(600):
        opt.step((torch.ones(1, 2, dtype=torch.float64), None))
        if t >= 500:
            largest = max(largest, 4 * joint_norm(model.parameters()) ** 2)
    assert largest == pytest.approx(floor, rel=0.05)
    if name == "sam":
        assert largest == pytest.approx((2 / 90) ** 2, rel=1e-9)


@settings(max_examples=40)
@given(
    eigenvalues=arrays.arrays(np.float64, 3, elements=st.floats(0.05, 4.0)),
    start=arrays.arrays(np.float64, 3, elements=st.floats(-3, 3)),
    c=st.floats(0.05, 0.95),
    rho=st.floats(1e-3, 1.0),
)
def test_lemma_of_sampa_on_convex_quadratics(eigenvalues, start, c, rho):
    """V' <= V - eta (1 - eta L / 2) ||grad f(x)||^2 + eta^2 rho^2 C (Xie et al. 2024, Lemma 4.3)."""
    L = eigenvalues.max()  # noqa: N806
    eta = 0.99 * min(1.0, c / L)
    C = (L**2 + L**3 + L**4 / (1 - c**2)) / 2  # noqa: N806
    a = torch.from_numpy(eigenvalues)
    model = Vector(start.copy())
    opt = SharpnessAware(
        model,
        torch.optim.SGD(model.parameters(), lr=eta),
        f"sampa:lam=0:rho={rho}",
        loss=lambda o, t, reduction: (a * o**2).sum(1) / 2,
    )

    def state():
        opt.step((torch.ones(1, 3, dtype=torch.float64), None))
        (q,) = (v for k, v in opt.state_dict()["memory"].items() if k.endswith("sampa.q"))
        x = model.weight.detach().numpy()
        slope = eigenvalues * x
        V = eigenvalues @ x**2 / 2 + (1 - eta * L) / 2 * np.sum((slope - q[0].numpy()) ** 2)  # noqa: N806
        return V, np.sum(slope**2)

    V, squared = state()  # noqa: N806
    for _ in range(30):
        after, squared_after = state()
        assert after <= V - eta * (1 - eta * L / 2) * squared + eta**2 * rho**2 * C + 1e-12
        V, squared = after, squared_after  # noqa: N806

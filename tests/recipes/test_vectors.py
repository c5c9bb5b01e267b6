"""What the recipes hand on and climb, as combinations of gradients, under masks and in their metrics."""

import pytest
import torch
from torch import nn

from sharpkit import RECIPES
from sharpkit.errors import UsageError
from tests.core.support import batch, bits, gradient, joint_norm, net, sharp, trail, weights
from tests.recipes.lattice import BASES, NORMED, end, inner, mix, perturbation, update

# ---------------------------------------------------------------------- combinations of g and h


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.8, 1.0, 1.7])
def test_gnp_lies_on_the_line_through_g_and_h(alpha):
    g, h = update("sgd"), update("sam:rho=0.3")
    torch.testing.assert_close(
        update(f"gnp:rho=0.3:alpha={alpha}"), mix((1 - alpha, g), (alpha, h)), rtol=0, atol=1e-12
    )
    unit = mix(((1 - alpha) / joint_norm(g), g), (alpha, h))
    torch.testing.assert_close(update(f"gnp:rho=0.3:alpha={alpha}:reference=unit"), unit, rtol=0, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0, 2.5])
def test_gsam_takes_off_the_part_of_g_that_is_orthogonal_to_h(alpha):
    g, h = update("sgd"), update("sam:rho=0.3")
    off = mix((1.0, h), (-1.0, update(f"gsam:rho=0.3:alpha={alpha}")))
    assert inner(off, h) == pytest.approx(0, abs=1e-12)
    assert inner(off, g) == pytest.approx(alpha * (inner(g, g) - inner(g, h) ** 2 / inner(h, h)), abs=1e-12)
    assert joint_norm(off) == pytest.approx(alpha * abs(inner(g, g) - inner(g, h) ** 2 / inner(h, h)) ** 0.5, abs=1e-9)


@pytest.mark.parametrize("alpha", [0.3, 0.7])
def test_looksam_remembers_the_part_of_h_that_is_orthogonal_to_g(alpha):
    """And adds it with alpha times the length of the gradient that it is added to."""
    model = net()
    opt = sharp(f"looksam:rho=0.3:k=2:alpha={alpha}", model, torch.optim.SGD(model.parameters(), lr=0.1))
    g = gradient(model, *batch())
    opt.step(batch())
    v = opt.state_dict()["memory"]["0/looksam.v"]
    assert inner(v, g) == pytest.approx(0, abs=1e-12)
    h = update("sam:rho=0.3", "mlp")
    torch.testing.assert_close(mix((1.0, v), (inner(g, h) / inner(g, g), g)), h, rtol=0, atol=1e-12)
    before, second = weights(model), gradient(model, *batch(seed=1))
    opt.step(batch(seed=1))
    u = [(a - b) / 0.1 for a, b in zip(before, weights(model), strict=True)]
    added = mix((1.0, u), (-1.0, second))
    assert joint_norm(added) == pytest.approx(alpha * joint_norm(second), rel=1e-10)
    assert inner(added, v) == pytest.approx(joint_norm(added) * joint_norm(v), rel=1e-10)


def test_vasso_is_sam_on_its_first_step_and_climbs_the_average_after():
    model = net()
    seen = trail(model)
    opt = sharp("vasso:rho=0.3:theta=0.4", model)
    d = None
    for t in range(4):
        g = gradient(model, *batch(seed=t))
        d = g if d is None else mix((0.6, d), (0.4, g))
        seen.clear()
        opt.step(batch(seed=t))
        eps = mix((1.0, seen[1]), (-1.0, seen[0]))
        torch.testing.assert_close(eps, mix((0.3 / joint_norm(d), d)), rtol=0, atol=1e-12)
    assert bits(update("vasso:rho=0.3:theta=0.4")) == bits(update("sam:rho=0.3"))


# ---------------------------------------------------------------------- masks


@pytest.mark.parametrize("kind", NORMED)
def test_sam_on_only_and_except_are_complementary(kind):
    model = net(kind)
    only, others = (perturbation(f"sam-on:rho=0.3:norm={norm}", kind) for norm in ("only", "except"))
    norms = [p for module in model if isinstance(module, nn.BatchNorm1d) for p in module.parameters()]
    inside = [any(p is q for q in norms) for p in model.parameters()]
    assert 0 < sum(inside) < len(inside)
    for a, b, chosen in zip(only, others, inside, strict=True):
        assert bool(a.any()) == chosen
        assert not (chosen and b.any())
    assert all(b.any() for b in others if b.dim() == 2)  # a bias before batch norm has no gradient
    for eps in (only, others):
        assert joint_norm(eps) == pytest.approx(0.3, rel=1e-9)  # delta = 1e-12
    whole = perturbation("sam:rho=0.3", kind)  # each is the restriction of SAM's perturbation, stretched to rho
    for eps, side in ((only, True), (others, False)):
        part = [e if chosen == side else torch.zeros_like(e) for e, chosen in zip(whole, inside, strict=True)]
        torch.testing.assert_close(eps, mix((0.3 / joint_norm(part), part)), rtol=0, atol=1e-12)


def test_the_intersection_of_both_masks_is_empty():
    """It is plain descent, and counted as a perturbation without a direction."""
    rule = RECIPES["sam-on"](norm="only") + RECIPES["sam-on"](norm="except")
    model = net("batch-norm", dtype=torch.float32)
    opt = sharp(rule, model)
    for t in range(5):
        opt.step(batch((8, 7, 6, 5, 4)[t], seed=t, dtype=torch.float32))
    assert bits(model.state_dict()) == end("sgd", "batch-norm")[0]
    assert opt.counters()["zero_norm"] == 5


@pytest.mark.parametrize("base", BASES)
def test_sam_on_all_but_the_norm_layers_of_a_net_without_any_is_sam(base):
    assert end("sam-on:rho=0.2:norm=except", "mlp", base) == end("sam:rho=0.2", "mlp", base)


@pytest.mark.parametrize(
    "layer", [lambda: nn.LayerNorm(4), lambda: nn.GroupNorm(2, 4), lambda: nn.RMSNorm(4), lambda: nn.BatchNorm1d(4)]
)
def test_sam_on_the_norm_layers_of_a_net_of_nothing_else_is_sam(layer):
    ends = []
    for rule in ("sam-on:rho=0.2", "sam:rho=0.2"):
        model = nn.Sequential(layer(), nn.Tanh(), layer()).double()
        opt = sharp(rule, model)
        for t in range(4):
            opt.step(batch(seed=t))
        ends.append(bits(model.state_dict()))
    assert ends[0] == ends[1]


def test_sam_on_needs_something_to_act_on():
    with pytest.raises(UsageError, match="norm is 'only'"):
        sharp("sam-on", net("mlp")).step(batch())
    with pytest.raises(UsageError, match="norm is 'except'"):
        sharp("sam-on:norm=except", nn.Sequential(nn.LayerNorm(4)).double()).step(batch())


def test_asam_on_the_norm_layers_is_asam_restricted_to_them():
    """T is 1.01 on gamma = 1 and the identity on beta; the norm is that of the norm layers alone."""
    model = net("batch-norm")
    eps = perturbation("asam+sam-on:rho=0.3", model=model)
    g = gradient(net("batch-norm"), *batch())
    ones = torch.ones(6, dtype=torch.float64)
    T = [None, None, 1.01 * ones, ones, None, None]  # noqa: N806
    length = joint_norm([t * v for t, v in zip(T, g, strict=True) if t is not None]) + 1e-12
    expected = [torch.zeros_like(v) if t is None else 0.3 * t**2 * v / length for t, v in zip(T, g, strict=True)]
    torch.testing.assert_close(eps, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 1.0, 1e4])
def test_fisher_sam_has_length_rho_in_its_metric(eta):
    """eps' F eps = rho^2 with F = 1 + eta g^2, and eps maximises g' eps there: g' eps = rho sqrt(g' F^-1 g)."""
    eps = perturbation(f"fisher-sam:rho=0.3:eta={eta}", "mlp")
    g = gradient(net("mlp"), *batch())
    fisher = [1 + eta * v**2 for v in g]
    assert inner(eps, [f * e for f, e in zip(fisher, eps, strict=True)]) ** 0.5 == pytest.approx(0.3, rel=1e-10)
    best = 0.3 * inner(g, [v / f for v, f in zip(g, fisher, strict=True)]) ** 0.5
    assert inner(g, eps) == pytest.approx(best, rel=1e-10)


@pytest.mark.parametrize(("size", "published"), [(0.1, 2.7e-2), (0.01, 2.9e-4), (0.001, 3e-6)])
def test_fisher_sam_of_small_gradients_is_sam_in_disguise(size, published):
    """With normal gradients of that size, eta = 1: the published relative differences of epsilon."""
    torch.manual_seed(0)
    g = size * torch.randn(100_000, dtype=torch.float64)
    eps = [v / torch.sqrt((g * v).sum()) for v in (g, g / (1 + g**2))]
    assert float((eps[1] - eps[0]).norm() / eps[0].norm()) == pytest.approx(published, rel=0.15)

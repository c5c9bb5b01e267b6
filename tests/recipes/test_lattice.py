"""Identities between the variants: which hyperparameters make one of them another, bit for bit where arithmetic can."""

from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from sharpkit import RECIPES, Rule, parse
from sharpkit.core.parts import Constant, Every
from sharpkit.core.slots import AscentLoss
from sharpkit.core.task import Batch
from sharpkit.errors import UsageError
from sharpkit.recipes.bisam import SmoothedErrors
from tests.core.support import batch, bits, gradient, joint_norm, net, sharp, trail, weights

BASES = {
    "momentum": lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9, weight_decay=1e-3),
    "adamw": lambda ps: torch.optim.AdamW(ps, lr=0.01),
}
KINDS = ["mlp", "batch-norm", "dropout"]
EVERYWHERE = pytest.mark.parametrize(
    ("kind", "base"), [("mlp", "adamw"), ("batch-norm", "momentum"), ("dropout", "momentum")]
)
NORMED = ["batch-norm", "dropout"]
COST = ("gradients", "sequential", "critical", "forward_samples", "backward_samples", "perturbed")


def finish(rule, kind, base="momentum", steps=5, dtype=torch.float32, sizes=(8, 7, 6, 5, 4), order=None, **options):
    """The model after some steps, and what they cost."""
    model = net(kind, dtype=dtype)
    opt = sharp(rule, model, BASES[base](model.parameters()), **options)
    torch.manual_seed(1)
    for t in range(steps):
        which = t if order is None else order[t]
        opt.step(batch(sizes[which % len(sizes)], seed=which, dtype=dtype))
    counted = opt.counters()
    return model, {key: counted[key] for key in COST}


@cache
def end(rule, kind, base="momentum", order=None):
    """The state that a recipe string ends in, as bytes, and its cost."""
    model, cost = finish(rule, kind, base, order=order)
    return bits(model.state_dict()), cost


def assert_close(one, other, atol=1e-12):
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=atol)


# ---------------------------------------------------------------------- radius zero

STILL = [
    *("sam", "asam", "asam:scope=all:eta=0", "fisher-sam", "fisher-sam:eta=9", "bisam-tanh", "bisam-log", "vasso"),
    *("vasso:theta=0.3", "gnp", "gnp:alpha=0.3", "gnp:alpha=1.7", "gsam:alpha=0", "msam:m=1", "ss-sam", "ss-sam:p=1"),
    *("looksam:k=1", "looksam:k=3", "looksam:k=2:scope=tensor", "ae-sam", "ae-looksam", "ae-looksam:lam2=-4:lam1=4"),
    *("fisher-sam+gnp", "vasso+gnp", "ae-sam+gnp", "ss-sam+vasso", "ae-sam+bisam-tanh", "bisam-log+vasso"),
]


@EVERYWHERE
@pytest.mark.parametrize("rule", STILL)
def test_radius_zero_is_the_base_optimizer_bit_for_bit(rule, kind, base):
    assert end(f"{rule}:rho=0", kind, base)[0] == end("sgd", kind, base)[0]


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("kind", NORMED)
@pytest.mark.parametrize("rule", ["sam-on", "sam-on:norm=except", "asam+sam-on", "sam-on+looksam:k=2"])
def test_radius_zero_on_the_norm_layers_is_the_base_optimizer_bit_for_bit(rule, kind, base):
    assert end(f"{rule}:rho=0", kind, base)[0] == end("sgd", kind, base)[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", ["gsam", "gsam:alpha=1.3", "ae-sam+gsam", "gsam:rho_max=0:rho_min=0"])
def test_radius_zero_of_gsam_is_the_base_optimizer_up_to_rounding(rule, kind):
    """u = (1 + alpha c) h - alpha g, with c = 1."""
    text = rule if "rho_max" in rule else f"{rule}:rho=0"
    assert_close(finish(text, kind, dtype=torch.float64)[0], finish("sgd", kind, dtype=torch.float64)[0])


@pytest.mark.parametrize("m", [2, 3, 4, 8, 50])
def test_radius_zero_of_msam_is_the_base_optimizer_up_to_rounding(m):
    """The weighted mean of the shards' gradients is the batch's, also where the shards differ in size."""
    ends = [finish(rule, "mlp", dtype=torch.float64)[0] for rule in (f"msam:rho=0:m={m}", "sgd")]
    assert_close(*ends)


@pytest.mark.parametrize("base", BASES)
def test_radius_zero_of_sampa_0_is_the_base_optimizer_one_batch_late(base):
    assert end("sampa:rho=0:lam=0", "mlp", base)[0] == end("sgd", "mlp", base, order=(0, 0, 1, 2, 3))[0]


# ---------------------------------------------------------------------- one recipe is another

EQUAL = [
    ("gnp:rho=0.2:alpha=1", "sam:rho=0.2"),
    ("gnp:rho=0.2:alpha=1:reference=unit", "sam:rho=0.2"),
    ("gsam:rho=0.2:alpha=0", "sam:rho=0.2"),
    ("gsam:rho_max=0.2:rho_min=0.2", "gsam:rho=0.2"),
    ("gsam:rho_max=0.2:rho_min=0.01", "gsam:rho=0.2"),  # no schedule: the rate is at its peak
    ("vasso:rho=0.2:theta=1", "sam:rho=0.2"),
    ("fisher-sam:rho=0.2:eta=0", "sam:rho=0.2"),
    ("looksam:rho=0.2:k=1", "sam:rho=0.2"),
    ("looksam:rho=0.2:k=1:alpha=3:scope=tensor", "sam:rho=0.2"),
    ("ss-sam:rho=0.2:p=1", "sam:rho=0.2"),
    ("ss-sam:rho=0.2:p=0", "sgd"),
    ("ae-sam:rho=0.2:lam1=-4:lam2=-4", "sam:rho=0.2"),
    ("ae-sam:rho=0.2:lam1=4:lam2=4", "sgd"),
    ("ae-sam:rho=0.2:lam1=-4:lam2=-4:delta=0", "sam:rho=0.2"),
    ("ae-sam:rho=0.2:lam1=3.17:lam2=3.17", "sgd"),  # above sqrt(10)
    ("ae-sam:rho=0.2:lam1=-3.17:lam2=-3.17", "sam:rho=0.2"),
    ("ae-looksam:rho=0.2:lam1=-4:lam2=-4", "sam:rho=0.2"),
    ("ae-looksam:rho=0.2:lam1=4:lam2=4", "sgd"),
    ("ae-looksam:rho=0.2:lam1=-1:lam2=1:alpha=0", "ae-sam:rho=0.2"),
    ("ae-looksam:rho=0.2:alpha=0", "ae-sam:rho=0.2:lam1=0:lam2=2"),
    ("msam:rho=0.2:m=1", "sam:rho=0.2"),
    ("sam+gnp:rho=0.2", "gnp:rho=0.2"),
    ("sam+vasso:rho=0.2", "vasso:rho=0.2"),
    ("sam+ae-looksam:rho=0.2", "ae-looksam:rho=0.2"),
    ("sampa+vasso:rho=0.2:theta=1", "sampa:rho=0.2"),
    ("sampa+fisher-sam:rho=0.2:eta=0", "sampa:rho=0.2"),
    ("sampa+msam:rho=0.2:m=1", "sampa:rho=0.2"),
    ("asam+msam:rho=0.2:m=1", "asam:rho=0.2"),
    ("asam+vasso:rho=0.2:theta=1", "asam:rho=0.2"),
    ("asam+gnp:rho=0.2:alpha=1", "asam:rho=0.2"),
    ("asam+gsam:rho=0.2:alpha=0", "asam:rho=0.2"),
    ("asam+looksam:rho=0.2:k=1", "asam:rho=0.2"),
    ("vasso+msam:rho=0.2:m=1", "vasso:rho=0.2"),
    ("ae-sam+msam:rho=0.2:m=1", "ae-sam:rho=0.2"),
    ("ss-sam+msam:rho=0.2:m=1", "ss-sam:rho=0.2"),
    ("ae-sam+gnp:rho=0.2:alpha=1", "ae-sam:rho=0.2"),
    ("bisam-log+vasso:rho=0.2:theta=1", "bisam-log:rho=0.2"),
    *((f"ss-sam+{x}:rho=0.2:p=1", f"{x}:rho=0.2") for x in ("asam", "fisher-sam", "bisam-log", "vasso", "gsam", "gnp")),
    *((f"ss-sam+{x}:rho=0.2:p=0", "sgd") for x in ("asam", "fisher-sam", "bisam-log", "gsam", "gnp", "vasso")),
    *((f"ae-sam+{x}:rho=0.2:lam1=-4:lam2=-4", f"{x}:rho=0.2") for x in ("asam", "fisher-sam", "vasso", "gsam", "gnp")),
    *((f"ae-sam+{x}:rho=0.2:lam1=4:lam2=4", "sgd") for x in ("asam", "fisher-sam", "vasso", "gsam", "gnp")),
]


@EVERYWHERE
@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_one_recipe_is_another_bit_for_bit_and_at_the_same_cost(one, other, kind, base):
    assert end(one, kind, base) == end(other, kind, base)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", ["gnp:alpha=0", "gnp:alpha=0:rho=3"])
def test_gnp_without_a_penalty_is_the_base_optimizer_at_twice_the_cost(rule, kind):
    state, cost = end(rule, kind)
    assert state == end("sgd", kind)[0]
    assert cost["gradients"] == 10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", ["tanh", "log"])
def test_a_gate_that_is_open_changes_nothing_but_the_cost_of_bisam(loss, kind):
    """The gate needs the task's gradient, which BiSAM does not."""
    gated = end(f"ae-sam+bisam-{loss}:rho=0.2:lam1=-4:lam2=-4", kind)
    alone = end(f"bisam-{loss}:rho=0.2", kind)
    assert gated[0] == alone[0]
    assert (gated[1]["gradients"], alone[1]["gradients"]) == (15, 10)


@pytest.mark.parametrize("kind", KINDS)
def test_looksam_without_reuse_is_sam_on_every_kth_step(kind):
    every = Rule("every", gate=Every(3), radius=Constant(0.2))
    model, cost = finish(every, kind)
    assert end("looksam:rho=0.2:k=3:alpha=0", kind) == (bits(model.state_dict()), cost)


def test_the_identities_compare_runs_that_perturb():
    """Lest every pair be equal because nothing moves: what differs, differs."""
    rules = ["sgd", "sam:rho=0.2", "sampa:rho=0.2", "asam:rho=0.2", "gnp:rho=0.2", "gsam:rho=0.2", "vasso:rho=0.2"]
    rules += ["looksam:rho=0.2:k=3", "ae-sam:rho=0.2:lam1=2:lam2=2", "ae-looksam:rho=0.2:lam1=2:lam2=2"]
    rules += [
        "bisam-tanh:rho=0.2",
        "bisam-log:rho=0.2",
        "fisher-sam:rho=0.2:eta=50",
        "sam-on:rho=0.2",
        "sam-on:rho=0.2:norm=except",
    ]
    ends = [str(end(rule, "dropout")[0]) for rule in rules]
    assert len(set(ends)) == len(rules)


@pytest.mark.parametrize("rule", ["msam:m=8", "msam:m=20"])
def test_msam_with_a_shard_a_sample_is_the_mean_of_steps_of_one_sample(rule):
    x, y = batch()
    model = net()
    before = weights(model)
    total = [torch.zeros_like(p) for p in before]
    for i in range(8):
        g = gradient(model, x[i : i + 1], y[i : i + 1])
        there = [w + 0.2 / (joint_norm(g) + 1e-12) * v for w, v in zip(before, g, strict=True)]
        for t, h in zip(total, gradient(model, x[i : i + 1], y[i : i + 1], at=there), strict=True):
            t += h / 8
    sharp(f"{rule}:rho=0.2", model, torch.optim.SGD(model.parameters(), lr=1.0)).step((x, y))
    moved = [a - b for a, b in zip(before, weights(model), strict=True)]
    torch.testing.assert_close(moved, total, rtol=0, atol=1e-12)


# ---------------------------------------------------------------------- combinations of g and h


def update(rule, kind="batch-norm", dtype=torch.float64):
    """The vector that the base optimizer gets on the first step."""
    model = net(kind, dtype=dtype)
    before = weights(model)
    sharp(rule, model, torch.optim.SGD(model.parameters(), lr=1.0)).step(batch(dtype=dtype))
    return [a - b for a, b in zip(before, weights(model), strict=True)]


def mix(*terms):
    return [
        sum(c * t for c, t in zip([c for c, _ in terms], parts, strict=True))
        for parts in zip(*(v for _, v in terms), strict=True)
    ]


def inner(a, b):
    return float(sum((s * t).sum() for s, t in zip(a, b, strict=True)))


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


def perturbation(rule, kind="batch-norm", model=None, data=None):
    """What the model sees added to its weights on the first step."""
    model = model or net(kind)
    seen = trail(model)
    torch.manual_seed(2)
    sharp(rule, model).step(data or batch())
    return [b - a for a, b in zip(seen[0], seen[1], strict=True)]


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


# ---------------------------------------------------------------------- BiSAM


@dataclass(frozen=True)
class Margins(AscentLoss):
    """phi(x) = x and mu = 1: the logsumexp of the margins."""

    def __call__(self, outputs, batch):
        return torch.logsumexp(outputs - outputs.gather(1, batch.targets[:, None]), dim=1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", ["sam", "asam", "vasso", "gnp", "looksam:k=2"])
def test_bisam_with_the_identity_for_phi_is_sam(rule, kind):
    """The logsumexp of the margins is the cross-entropy."""
    plain = parse(f"{rule}:rho=0.2")
    ends = [finish(r, kind, dtype=torch.float64)[0] for r in (replace(plain, ascent_loss=Margins()), plain)]
    assert_close(*ends)


def test_bisam_tanh_tends_to_sam_as_its_slope_goes_to_zero():
    """mu tanh(x / mu) = x - x^3 / (3 mu^2): the cross-entropy of the margins again."""
    ends = [finish(r, "mlp", dtype=torch.float64)[0] for r in ("bisam-tanh:rho=0.2:mu=1e5:alpha=1e-5", "sam:rho=0.2")]
    assert_close(*ends, atol=1e-8)


GAMMA = torch.log(torch.expm1(torch.tensor(1.0, dtype=torch.float64)))
PHI = {
    "bisam-tanh": lambda x, alpha: (torch.exp(2 * alpha * x) - 1) / (torch.exp(2 * alpha * x) + 1),
    "bisam-log": lambda x, _: 1 - torch.log(1 + torch.exp(GAMMA - x)),
}


def climbed(name, outputs, targets, mu, alpha):
    """The mean of Q, sample by sample and class by class."""
    total = 0
    for z, y in zip(outputs, targets, strict=True):
        total = total + sum(torch.exp(mu * PHI[name](z[j] - z[y], alpha)) for j in range(len(z))).log() / mu
    return total / len(targets)


@pytest.mark.parametrize("kind", ["linear", "mlp", "batch-norm"])
@pytest.mark.parametrize(
    ("rule", "mu", "alpha"),
    [
        ("bisam-tanh", 10, 0.1),
        ("bisam-tanh:mu=3:alpha=0.7", 3, 0.7),
        ("bisam-log", 1, 0),
        ("bisam-log:mu=4", 4, 0),
    ],
)
def test_bisam_climbs_the_gradient_of_its_formula(rule, mu, alpha, kind):
    x, y = batch()
    model = net(kind)
    g = torch.autograd.grad(climbed(rule.split(":")[0], model(x), y, mu, alpha), list(model.parameters()))
    expected = [0.3 * v / (joint_norm(g) + 1e-12) for v in g]
    torch.testing.assert_close(perturbation(f"{rule}:rho=0.3", kind), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["bisam-tanh", "bisam-log"])
def test_bisam_descends_the_task_loss(name, kind):
    """u is the gradient of the loss, label smoothing and all, at w + eps; the reported loss is the task's at w."""
    model = net(kind)
    smooth = lambda o, t, reduction: F.cross_entropy(o, t, reduction=reduction, label_smoothing=0.1)  # noqa: E731
    seen = trail(model)
    x, y = batch()
    torch.manual_seed(3)
    report = sharp(name, model, torch.optim.SGD(model.parameters(), lr=1.0), loss=smooth).step((x, y))
    twin = net(kind)
    torch.manual_seed(3)
    loss = F.cross_entropy(twin(x), y, label_smoothing=0.1).detach()
    assert float(report.loss) == pytest.approx(float(loss), abs=1e-12)
    for p, value in zip(twin.parameters(), seen[1], strict=True):
        p.data.copy_(value)
    torch.manual_seed(3)
    h = torch.autograd.grad(F.cross_entropy(twin(x), y, label_smoothing=0.1), list(twin.parameters()))
    torch.testing.assert_close(weights(model), mix((1.0, seen[0]), (-1.0, h)), rtol=0, atol=1e-12)


SHAPES = [SmoothedErrors("tanh", 10.0, 0.1), SmoothedErrors("tanh", 2.0, 5.0), SmoothedErrors("log", 1.0)]
SHAPES += [SmoothedErrors("log", 7.0)]


def smoothed(errors, logits, targets):
    return errors(torch.as_tensor(logits, dtype=torch.float64), Batch(None, torch.as_tensor(targets)))


@pytest.mark.parametrize("errors", SHAPES, ids=str)
def test_phi_is_zero_at_zero(errors):
    """With one class the only margin is 0, and Q = phi(0); with K equal logits Q = log(K) / mu."""
    assert float(smoothed(errors, [[3.0]], [0])) == pytest.approx(0, abs=1e-15)
    for K in (2, 10):  # noqa: N806
        equal = smoothed(errors, torch.full((2, K), -1.5), [0, K - 1])
        torch.testing.assert_close(
            equal, torch.full((2,), K, dtype=torch.float64).log() / errors.mu, rtol=0, atol=1e-14
        )


LOGITS = st.lists(st.floats(-30, 30), min_size=4, max_size=4)


@given(LOGITS, st.integers(0, 3), st.sampled_from(SHAPES))
def test_q_is_a_lower_bound_of_the_0_1_loss_up_to_the_smoothing(logits, target, errors):
    """phi(x) is at most 1, and at most 0 for x <= 0; a log-sum-exp exceeds the maximum by at most log(K) / mu."""
    wrong = max(z for j, z in enumerate(logits) if j != target) > logits[target]
    q = float(smoothed(errors, [logits], [target]))
    assert q - torch.tensor(4.0).log() / errors.mu <= wrong + 1e-6
    assert q >= -1e-12  # the target's own margin is 0


@given(LOGITS, st.integers(0, 3), st.sampled_from(["tanh", "log"]))
def test_q_tends_to_a_lower_bound_of_the_0_1_loss(logits, target, shape):
    wrong = max(z for j, z in enumerate(logits) if j != target) > logits[target]
    assert float(smoothed(SmoothedErrors(shape, 1e6, 0.5), [logits], [target])) <= wrong + 1e-5


@given(LOGITS, st.integers(0, 3), st.floats(-5, 5), st.sampled_from(SHAPES))
def test_q_does_not_change_when_all_logits_shift(logits, target, shift, errors):
    moved = smoothed(errors, [[z + shift for z in logits]], [target])
    torch.testing.assert_close(moved, smoothed(errors, [logits], [target]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("errors", SHAPES, ids=str)
def test_q_of_huge_logits_is_finite_and_so_is_its_gradient(errors):
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]], dtype=torch.float64, requires_grad=True)
    q = errors(logits, Batch(None, torch.tensor([0, 0])))
    assert q.isfinite().all()
    assert torch.autograd.grad(q.sum(), logits)[0].isfinite().all()


def test_bisam_takes_the_targets_of_one_class_each_only():
    for loss, targets in ((F.mse_loss, torch.zeros(8, 3, dtype=torch.float64)),):
        with pytest.raises(UsageError, match="class numbers"):
            sharp("bisam-tanh", net(), loss=loss).step((batch()[0], targets))

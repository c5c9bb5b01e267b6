"""Identities between the variants: which hyperparameters make one of them another, bit for bit where arithmetic can."""

import pytest
import torch

from sharpkit import Rule
from sharpkit.core.parts import Constant, Every
from tests.core.support import batch, bits, gradient, joint_norm, net, sharp, weights
from tests.recipes.lattice import BASES, KINDS, NORMED, assert_close, end, finish

EVERYWHERE = pytest.mark.parametrize(
    ("kind", "base"), [("mlp", "adamw"), ("batch-norm", "momentum"), ("dropout", "momentum")]
)


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

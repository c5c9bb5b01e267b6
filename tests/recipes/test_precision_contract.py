"""What half precision and accumulation may change in any recipe: rounding, and nothing else."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch.nn import functional as F

from sharpkit import RECIPES
from tests.core.support import batch, bits, joint_norm, net, numbered, sharp, weights
from tests.recipes.test_trajectories import MODULES, text

NAMES = list(dict.fromkeys([*RECIPES, *(text(name, case) for name in RECIPES for case in MODULES[name].CASES[:1])]))
"""Every recipe at its defaults, and at the first hyperparameters of its reference, where it does all that it can."""

STEPS = 5
SCALE = 2.0**10

TOLERANCES = {"bf16": 0.02, "fp16": 0.002}
"""Of the distance between start and end: five steps of a smooth net, whose every product is rounded to 8 or 11 bits."""

MAGNIFYING = {"looksam", "ae-looksam", "esam"}
"""Recipes that normalise a difference of two gradients, or rank samples: rounding moves them ten times as far."""


def kind_of(rule):
    """The smooth net, or the one with batch norm for a rule that needs norm layers."""
    return "mlp" if "mlp" in getattr(MODULES[rule.partition(":")[0]], "NETS", ["mlp"]) else "batch-norm"


def drawing(dtype):
    x, y = batch(40, seed=7, dtype=dtype)

    def draw(count, generator):
        rows = torch.randperm(len(y), generator=generator)[:count]
        return x[rows], y[rows]

    return draw


def prepared(rule, kind, dtype=torch.float32, **options):
    model = net(kind, dtype=dtype)
    opt = sharp(rule, model, draw=drawing(dtype), **options)
    if options.get("precision") == "fp16":
        opt.load_state_dict({**opt.state_dict(), "precision": {"scale": SCALE, "good_steps": 0}})
    torch.manual_seed(0)
    return model, opt


def trained(rule, kind, dtype=torch.float32, size=7, **options):
    """The weights after some steps."""
    model, opt = prepared(rule, kind, dtype, **options)
    for t in range(STEPS):
        assert not opt.step(numbered(size, seed=t, dtype=dtype)).dropped
    return weights(model)


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("rule", NAMES)
def test_half_precision_goes_where_full_precision_goes(rule, precision):
    kind = kind_of(rule)
    full, half = trained(rule, kind), trained(rule, kind, precision=precision)
    moved = joint_norm([a - b for a, b in zip(full, weights(net(kind, dtype=torch.float32)), strict=True)])
    apart = joint_norm([a - b for a, b in zip(full, half, strict=True)])
    magnified = 10 if rule.partition(":")[0] in MAGNIFYING else 1
    assert 0 < apart < magnified * TOLERANCES[precision] * moved


@pytest.mark.parametrize("pieces", [2, 3])
@pytest.mark.parametrize("rule", [rule for rule in NAMES if kind_of(rule) == "mlp"])
def test_accumulation_is_the_whole_batch_up_to_the_order_of_sums(rule, pieces):
    """Also where the pieces are of different sizes: 7 samples in 2 and in 3."""
    whole, cut = (trained(rule, "mlp", torch.float64, accumulate=k) for k in (1, pieces))
    torch.testing.assert_close(cut, whole, rtol=0, atol=1e-12)


@dataclass
class Failing:
    """Cross-entropy that is infinite in one of the step's passes; it counts them.

    They run under autocast, unlike the passes over single samples that a mask is made of.
    """

    call: int
    count: int = 0

    def __call__(self, outputs, targets, reduction):
        self.count += torch.is_autocast_enabled("cpu")
        losses = F.cross_entropy(outputs, targets, reduction=reduction)
        return losses * math.inf if self.count == self.call else losses


@pytest.mark.parametrize("rule", RECIPES)
def test_a_pass_that_is_not_finite_leaves_everything_but_the_scale_as_it_was(rule):
    """Whichever pass of the first or second step it is, clean, perturbed or forward only."""

    def steps(opt, count):
        return [opt.step(numbered(seed=t, dtype=torch.float32)).dropped for t in range(count)]

    passes = []
    for count in (1, 2):
        loss = Failing(0)
        steps(prepared(rule, "batch-norm", precision="fp16", loss=loss)[1], count)
        passes.append(loss.count)
    for call in range(1, passes[-1] + 1):
        model, opt = prepared(rule, "batch-norm", precision="fp16", loss=Failing(call))
        good = int(call > passes[0])
        assert steps(opt, good) == [False] * good
        before = opt.state_dict()
        kept = bits([model.state_dict(), before["base"], before["memory"], before["generator"]])
        assert opt.step(numbered(seed=good, dtype=torch.float32)).dropped
        after = opt.state_dict()
        assert bits([model.state_dict(), after["base"], after["memory"], after["generator"]]) == kept
        assert after["precision"] == {"scale": SCALE / 2, "good_steps": 0}

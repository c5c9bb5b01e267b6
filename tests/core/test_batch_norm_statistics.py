"""Which passes of a step update batch-norm statistics, against an update that is written out in NumPy."""

import numpy as np
import pytest
import torch
from torch import nn

from sharpkit import RECIPES
from sharpkit.core.batch_norm import synchronise
from sharpkit.core.comm import ALONE
from tests.core.support import batch, bits, net, numbered, sharp, weights
from tests.recipes.test_precision_contract import drawing

MODES = pytest.mark.parametrize("kept", ["clean", "perturbed", "both"])
STEPS = 5
UNIONS = [
    *("sampa+asam", "sampa+mesa:start=-1", "sampa+msam:m=2:rho=0.1", "vasso+ss-sam:p=0.5", "msam+ae-sam:m=2"),
    *("msam+ss-sam:m=2:p=0.5", "ss-sam+saf:p=0.5:start=-1:lag=1", "sam:rho=0", "ss-sam:p=0", "esam:gamma=0.5"),
    "esam+ss-sam:gamma=0.5:p=0.5",
]  # fmt: skip
LAYERS = {"momentum": {}, "cumulative average": {"momentum": None}}


class Statistics:
    """Running statistics as torch documents them, of the passes that the test says count."""

    def __init__(self, layer):
        self.mean = layer.running_mean.numpy().copy()
        self.var = layer.running_var.numpy().copy()
        self.count, self.momentum = int(layer.num_batches_tracked), layer.momentum

    def add(self, x):
        self.count += 1
        m = 1 / self.count if self.momentum is None else self.momentum
        self.mean = (1 - m) * self.mean + m * x.mean(0)
        self.var = (1 - m) * self.var + m * x.var(0, ddof=1)

    def check(self, layer):
        assert int(layer.num_batches_tracked) == self.count
        np.testing.assert_allclose(layer.running_mean, self.mean, rtol=0, atol=1e-12)
        np.testing.assert_allclose(layer.running_var, self.var, rtol=0, atol=1e-12)


class Passes:
    """The training passes of a step in their order: weights, rows of the batch, and what batch norm is given."""

    def __init__(self, model):
        self.model, self.seen = model, []
        model.register_forward_pre_hook(self._begin)
        model[1].register_forward_pre_hook(self._normalise)

    def _begin(self, module, args):
        if module.training:
            self.seen.append([weights(module), args[0].detach().clone(), None])

    def _normalise(self, module, args):
        if module.training:
            self.seen[-1][2] = args[0].detach().numpy().copy()

    def by_role(self, rule, before, inputs, accumulate=1):
        """Return (role, what batch norm was given) of every pass of a step, its role told apart from outside.

        SAMPa's two passes have two batches, the clean one this step's. Of the others the clean pass is at the weights
        from before the step, and of two passes at other weights the last one gives the gradient.
        """
        passes = []
        for at, x, given in self.seen:
            if rule.startswith("sampa"):
                clean = all(any(torch.equal(row, own) for own in inputs) for row in x)
            else:
                clean = all(torch.equal(a, b) for a, b in zip(at, before, strict=True))
            passes.append(("clean" if clean else "perturbed", given))
        if rule.startswith("esam") and any(role == "perturbed" for role, _ in passes):
            clean = [p for p in passes if p[0] == "clean"]
            passes = [*clean, *[p for p in passes if p[0] == "perturbed"][accumulate:]]  # the rest measures the rise
        self.seen.clear()
        return passes


def counted(passes, kept, perturbed):
    """Which passes count, as the documentation says."""
    roles = {"clean": ["clean"], "perturbed": ["perturbed"], "both": ["clean", "perturbed"]}[kept]
    if not perturbed:
        roles = ["clean"]
    return [given for role, given in passes if role in roles]


def run(rule, kept, layer=(), **options):
    """Take steps and check the statistics after each; return which steps perturbed."""
    model = net("batch-norm")
    model[1] = nn.BatchNorm1d(6, **dict(layer)).double()
    expected, passes = Statistics(model[1]), Passes(model)
    opt = sharp(rule, model, bn_stats=kept, draw=drawing(torch.float64), **options)
    perturbed = []
    for t in range(STEPS):
        before, data = weights(model), numbered(seed=t)
        report = opt.step(data)
        perturbed.append(report.perturbed)
        found = passes.by_role(rule, before, data[0], options.get("accumulate", 1))
        zero = not found or (report.perturbed and all(role == "clean" for role, _ in found))
        if zero:  # nothing was displaced: a radius of 0, or a zero gradient
            half = len(found) // 2
            found = found[:half] + [("perturbed", given) for _, given in found[half:]]
        for given in counted(found, kept, report.perturbed):
            expected.add(given)
        expected.check(model[1])
    return perturbed, expected.count


@MODES
@pytest.mark.parametrize("rule", [*RECIPES, *UNIONS])
def test_each_step_updates_statistics_once_in_the_passes_that_are_named(rule, kept):
    perturbed, count = run(rule, kept)
    passes = [2 if kept == "both" and p else 1 for p in perturbed]
    shards = 4 if rule == "msam" else 2 if "msam" in rule else 1
    assert count == shards * sum(passes)


@MODES
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("rule", ["sgd", "ss-sam:p=0.5", "looksam:k=2", "ae-sam", "sampa", "esam:gamma=0.5", "gnp"])
def test_micro_batches_update_statistics_one_after_the_other(rule, layer, kept):
    perturbed, count = run(rule, kept, tuple(LAYERS[layer].items()), accumulate=2)
    assert count == 2 * sum(2 if kept == "both" and p else 1 for p in perturbed)


@pytest.mark.parametrize("rule", ["sgd", "ss-sam:p=0", "saf:start=-1", "mesa:start=-1", "ae-sam:lam1=40:lam2=40"])
def test_a_rule_that_never_perturbs_has_the_same_statistics_in_every_mode(rule):
    """As `sharpkit train --opt sgd`, whose statistics would stay at their initial values."""
    ends = []
    for kept in ("clean", "perturbed", "both"):
        model = net("batch-norm")
        opt = sharp(rule, model, bn_stats=kept)
        reports = [opt.step(numbered(seed=t)) for t in range(STEPS)]
        assert not any(r.perturbed for r in reports)
        ends.append(bits(model.state_dict()))
    assert ends[0] == ends[1] == ends[2]
    assert not torch.equal(model[1].running_mean, torch.zeros(6).double())


@MODES
def test_a_zero_gradient_updates_statistics_as_any_other(kept):
    model = net("batch-norm")
    opt = sharp("sam", model, bn_stats=kept, loss=lambda outputs, targets, reduction: 0 * outputs.sum(1))
    expected = Statistics(model[1])
    with torch.no_grad():
        given = model[0](batch()[0]).numpy()
    opt.step(batch())
    for _ in range(2 if kept == "both" else 1):
        expected.add(given)
    expected.check(model[1])


@MODES
@pytest.mark.parametrize("rule", ["sam", "ss-sam:p=0", "ae-sam:lam1=40:lam2=40", "ae-sam:lam1=-40:lam2=-40"])
def test_a_closure_updates_statistics_as_a_batch_does(rule, kept):
    (model, twin), data = (net("batch-norm") for _ in range(2)), batch()
    opt, other = (sharp(rule, m, bn_stats=kept) for m in (model, twin))

    def closure():
        loss = nn.functional.cross_entropy(model(data[0]), data[1])
        loss.backward()
        return loss

    for _ in range(3):
        opt.step(closure)
        other.step(data)
    assert int(model[1].num_batches_tracked) > 0
    torch.testing.assert_close(model.state_dict(), twin.state_dict(), rtol=0, atol=1e-12)


@MODES
@pytest.mark.parametrize("rule", ["sampa", "sampa+bisam-tanh:rho=0.1"])
def test_two_gradients_at_once_update_statistics_as_one_after_the_other(rule, kept):
    if kept == "both":
        pytest.skip("refused, as neither pass sees what the other has left")
    ends = []
    for streams in (False, True):
        model = net("batch-norm")
        opt = sharp(rule, model, bn_stats=kept, streams=streams)
        for t in range(STEPS):
            opt.step(batch(seed=t))
        ends.append(bits(model.state_dict()))
    assert ends[0] == ends[1]


@pytest.mark.parametrize("rule", ["sam", "ae-sam:lam1=40:lam2=40", "ss-sam:p=0"])
def test_synchronised_batch_norm_has_the_statistics_of_plain_batch_norm(rule):
    ends = []
    for synchronised in (False, True):
        model = net("batch-norm")
        if synchronised:
            synchronise(model, ALONE)
        opt = sharp(rule, model, bn_stats="perturbed")
        for t in range(STEPS):
            opt.step(batch(seed=t))
        ends.append(model.state_dict())
    torch.testing.assert_close(*ends, rtol=0, atol=1e-12)
    assert int(ends[1]["1.num_batches_tracked"]) == STEPS


@pytest.mark.parametrize("rule", ["sgd", "sam", "ae-sam:lam1=40:lam2=40"])
def test_a_step_that_fails_leaves_statistics_as_they_were(rule):
    model = net("batch-norm")
    opt = sharp(rule, model, bn_stats="perturbed")
    opt.step(batch())
    before = bits(model.state_dict())

    def failing(*_, **__):
        raise KeyboardInterrupt

    opt.base.step, step = failing, opt.base.step
    with pytest.raises(KeyboardInterrupt):
        opt.step(batch())
    assert bits(model.state_dict()) == before
    opt.base.step = step
    opt.step(batch())
    assert int(model[1].num_batches_tracked) == 2

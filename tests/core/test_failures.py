"""Zero and non-finite gradients, clipping, and what the counters say of them."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.core.support import batch, bits, gradient, joint_norm, net, sharp, trail, weights

PERTURBING = ["sam:rho=1", "asam:rho=1", "sampa:rho=1", "sampa+asam:rho=1"]


def flat_loss(outputs, targets, reduction):
    return 0 * F.cross_entropy(outputs, targets, reduction=reduction)


@pytest.mark.parametrize("rule", PERTURBING)
def test_a_zero_gradient_gives_no_perturbation_and_is_counted(rule):
    model = net()
    seen = trail(model)
    opt = sharp(rule, model, torch.optim.SGD(model.parameters(), lr=0.1), loss=flat_loss)
    for _ in range(4):
        opt.step(batch())
    assert all(bits(w) == bits(seen[0]) for w in [*seen, weights(model)])
    counts = opt.counters()
    assert counts["zero_norm"] == counts["perturbed"] == (3 if "sampa" in rule else 4)
    assert counts["nonfinite_norm"] == 0


class Spoiled:
    """Cross-entropy whose gradient is not finite in the calls whose numbers are given."""

    def __init__(self, *calls, factor=float("inf")):
        self.calls, self.factor, self.count = calls, factor, 0

    def __call__(self, outputs, targets, reduction):
        self.count += 1
        losses = F.cross_entropy(outputs, targets, reduction=reduction)
        return losses * self.factor if self.count in self.calls else losses


@pytest.mark.parametrize("factor", [float("inf"), float("nan")])
@pytest.mark.parametrize("rule", ["sam:rho=1", "asam:rho=1"])
def test_a_climbed_gradient_that_is_not_finite_gives_no_perturbation(rule, factor):
    """The second pass is then the plain gradient at w, which is finite: the base optimizer's own step."""
    model, twin = net(), net()
    opt = sharp(rule, model, loss=Spoiled(1, factor=factor))
    opt.step(batch())
    sharp("sgd", twin).step(batch())
    assert bits(weights(model)) == bits(weights(twin))
    assert (opt.counters()["nonfinite_norm"], opt.counters()["zero_norm"]) == (1, 0)
    opt.step(batch())
    assert opt.counters()["nonfinite_norm"] == 1


def test_sampa_climbs_nothing_where_its_gradient_is_not_finite():
    """h is then the gradient of the batch before at w itself; the look-ahead along that q is not finite either."""
    model = net()
    opt = sharp("sampa", model)
    opt.step(batch(seed=0))
    state = opt.state_dict()
    memory = {
        k: [torch.full_like(q, float("inf")) for q in v] if k.endswith("q") else v for k, v in state["memory"].items()
    }
    opt.load_state_dict({**state, "memory": memory})
    seen = trail(model)
    w = weights(model)
    report = opt.step(batch(seed=1))
    assert report.perturbed
    assert opt.counters()["nonfinite_norm"] == 2
    assert bits(seen[0]) == bits(w)


@pytest.mark.parametrize("rule", ["sgd", "sam:rho=0.5", "asam:rho=0.5", "sampa:rho=0.5"])
def test_only_the_final_gradient_is_clipped(rule):
    """The passes of a clipped step are at the points of an unclipped one, and its move is no longer than the bound."""
    loose, tight = net(), net()
    seen_loose, seen_tight = trail(loose), trail(tight)
    plain = {"lr": 1.0}
    free = sharp(rule, loose, torch.optim.SGD(loose.parameters(), **plain))
    clipped = sharp(rule, tight, torch.optim.SGD(tight.parameters(), **plain), clip=1e-3)
    w = weights(loose)
    free.step(batch())
    clipped.step(batch())
    assert bits(seen_loose) == bits(seen_tight)
    move = [a - b for a, b in zip(weights(loose), w, strict=True)]
    short = [a - b for a, b in zip(weights(tight), w, strict=True)]
    assert joint_norm(short) == pytest.approx(1e-3, rel=1e-2)  # torch divides by the norm + 1e-6
    ratio = 1e-3 / (joint_norm(move) + 1e-6)
    torch.testing.assert_close(short, [ratio * m for m in move], rtol=0, atol=1e-14)


def test_sampa_remembers_the_gradient_before_clipping():
    model = net()
    opt = sharp("sampa", model, clip=1e-3)
    opt.step(batch(seed=0))
    (q,) = (v for k, v in opt.state_dict()["memory"].items() if k.endswith("q"))
    torch.testing.assert_close(q, gradient(net(), *batch(seed=0)), rtol=0, atol=1e-14)


def test_a_generous_bound_does_not_clip():
    model, twin = net(), net()
    sharp("sam", model, clip=1e6).step(batch())
    sharp("sam", twin).step(batch())
    torch.testing.assert_close(weights(model), weights(twin), rtol=0, atol=1e-15)


@pytest.mark.parametrize("rule", ["sgd", *PERTURBING])
def test_the_report_holds_the_clean_loss_and_outputs(rule):
    """At w for all but SAMPa, whose clean pass is the one at y; never at w + epsilon."""
    model = net()
    seen, opt = trail(model), sharp(rule, model)
    for t in range(3):
        start = len(seen)
        report = opt.step(batch(seed=t))
        clean = seen[-1] if "sampa" in rule else seen[start]
        twin = net()
        nn.utils.vector_to_parameters(torch.cat([w.flatten() for w in clean]), twin.parameters())
        outputs = twin(batch(seed=t)[0])
        torch.testing.assert_close(report.outputs, outputs.detach(), rtol=0, atol=1e-14)
        torch.testing.assert_close(report.loss, F.cross_entropy(outputs, batch(seed=t)[1]).detach(), rtol=0, atol=1e-14)
        assert report.perturbed == (rule != "sgd" and not ("sampa" in rule and t == 0))
        assert not report.loss.requires_grad
        assert not report.outputs.requires_grad
        assert not report.dropped


def test_the_report_notes_the_norm_that_was_climbed():
    model = net()
    report = sharp("sam", model).step(batch())
    assert float(report.notes["ascent_norm"]) == pytest.approx(joint_norm(gradient(net(), *batch())), rel=1e-12)

"""The loss and gradient of a batch: accumulation, counting, frozen buffers, closures."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpkit.errors import UsageError
from tests.core.support import batch, bits, gradient, joint_norm, net, sharp, trail, weights


class Centred(nn.Module):
    """A home-made norm that keeps the mean it has seen in a buffer of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(width, dtype=torch.float64))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int32))

    def forward(self, x):
        self.seen.lerp_(x.detach().mean(0), 0.1)
        self.calls.add_(1)
        return x - x.mean(0)


NORMS = {
    "batch-norm": lambda: nn.BatchNorm1d(6),
    "cumulative": lambda: nn.BatchNorm1d(6, momentum=None),
    "home-made": lambda: Centred(6),
}


def normed(kind):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), NORMS[kind](), nn.Tanh(), nn.Linear(6, 3)).double()


@pytest.mark.parametrize("accumulate", [2, 3, 8, 99])
@pytest.mark.parametrize("rule", ["sgd", "sam:rho=0.5", "asam", "sampa"])
def test_accumulated_steps_are_those_of_the_whole_batch(rule, accumulate):
    whole, pieces = net(), net()
    one, many = sharp(rule, whole), sharp(rule, pieces, accumulate=accumulate)
    for t in range(4):
        a, b = one.step(batch(8 - t, t)), many.step(batch(8 - t, t))
        torch.testing.assert_close(weights(pieces), weights(whole), rtol=0, atol=1e-12)
        torch.testing.assert_close(b.loss, a.loss, rtol=1e-12, atol=0)
        torch.testing.assert_close(b.outputs, a.outputs, rtol=0, atol=1e-12)
        assert (a.forward_samples, a.backward_samples) == (b.forward_samples, b.backward_samples)


def test_accumulation_calls_the_model_once_a_piece():
    model = net()
    seen = trail(model)
    sharp("sgd", model, accumulate=3).step(batch(8))
    assert len(seen) == 3
    with pytest.raises(UsageError, match="accumulate is 0, allowed is 1 or more"):
        sharp("sgd", net(), accumulate=0)


@pytest.mark.parametrize(
    ("rule", "first", "later"),
    [("sgd", (8, 1, 1), (6, 1, 1)), ("sam", (16, 2, 2), (12, 2, 2)), ("sampa", (8, 1, 1), (8 + 6, 2, 1))],
)
def test_samples_and_gradients_are_counted(rule, first, later):
    """SAMPa's h sees the 8 samples of the batch before, beside the 6 of its own, and can run beside it."""
    opt = sharp(rule, net())
    for size, (samples, gradients, critical) in ((8, first), (6, later)):
        report = opt.step(batch(size))
        assert (report.forward_samples, report.backward_samples) == (samples, samples)
        assert (report.gradients, report.sequential, report.critical) == (gradients, gradients, critical)
    totals = opt.counters()
    assert totals["forward_samples"] == totals["backward_samples"] == first[0] + later[0]
    assert totals["gradients"] == totals["sequential"] == first[1] + later[1]
    assert (totals["steps"], totals["critical"]) == (2, first[2] + later[2])


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("rule", ["sgd", "sam:rho=2", "asam:rho=2"])
def test_buffers_see_the_clean_pass_alone(rule, kind):
    """Expected: a copy that, at every w_t, is called once in the plain way."""
    model = normed(kind)
    opt = sharp(rule, model)
    for t in range(3):
        twin = copy.deepcopy(model)
        twin(batch(seed=t)[0])
        opt.step(batch(seed=t))
        assert bits(dict(model.named_buffers())) == bits(dict(twin.named_buffers()))


@pytest.mark.parametrize("kind", NORMS)
def test_buffers_of_sampa_see_the_look_ahead_pass_alone(kind):
    model = normed(kind)
    seen = trail(model)
    opt = sharp("sampa:rho=2", model)
    opt.step(batch(seed=0))
    for t in (1, 2):
        twin = copy.deepcopy(model)
        opt.step(batch(seed=t))
        for p, y in zip(twin.parameters(), seen[-1], strict=True):  # h comes first, then the pass at y
            p.data.copy_(y)
        twin(batch(seed=t)[0])
        assert bits(dict(model.named_buffers())) == bits(dict(twin.named_buffers()))


@pytest.mark.parametrize(("kept", "passes"), [("clean", [0]), ("perturbed", [1]), ("both", [0, 1])])
@pytest.mark.parametrize("kind", NORMS)
def test_bn_stats_names_the_passes_that_are_kept(kind, kept, passes):
    model = normed(kind)
    twin, seen = copy.deepcopy(model), trail(model)
    sharp("sam:rho=2", model, bn_stats=kept).step(batch())
    for i in passes:
        for p, value in zip(twin.parameters(), seen[i], strict=True):
            p.data.copy_(value)
        twin(batch()[0])
    assert bits(dict(model.named_buffers())) == bits(dict(twin.named_buffers()))


def test_unknown_options_are_refused_by_name():
    with pytest.raises(UsageError, match="bn_stats is 'none', allowed are clean, perturbed, both"):
        sharp("sam", net(), bn_stats="none")
    with pytest.raises(UsageError, match="rng is 'other', allowed are same, fresh"):
        sharp("sam", net(), rng="other")
    with pytest.raises(UsageError, match=r"clip is 0, allowed is \(0, inf\)"):
        sharp("sam", net(), clip=0)


@pytest.mark.parametrize("kind", ["mlp", "batch-norm", "dropout"])
@pytest.mark.parametrize("rule", ["sgd", "sam:rho=0.5", "asam"])
def test_a_closure_takes_the_step_of_its_batch(rule, kind):
    """Bit for bit, also when the closure leaves zeroing to the engine; its masks are replayed as a batch's are."""
    by_batch, by_closure = net(kind), net(kind)
    one, other = sharp(rule, by_batch), sharp(rule, by_closure)
    for t in range(3):
        x, y = batch(seed=t)

        def closure(x=x, y=y):
            loss = F.cross_entropy(by_closure(x), y, reduction="none").sum() / 8
            loss.backward()
            return loss

        torch.manual_seed(t)
        a = one.step((x, y))
        torch.manual_seed(t)
        b = other.step(closure)
        assert bits(by_closure.state_dict()) == bits(by_batch.state_dict())
        assert float(b.loss) == pytest.approx(float(a.loss), rel=1e-14)
        assert (b.outputs, b.gradients, b.perturbed) == (None, a.gradients, a.perturbed)


def test_a_closure_may_return_a_float():
    model = net()

    def closure():
        loss = F.cross_entropy(model(batch()[0]), batch()[1])
        loss.backward()
        return loss.item()

    expected = F.cross_entropy(net()(batch()[0]), batch()[1]).item()
    assert sharp("sam", model).step(closure).loss.item() == pytest.approx(expected, rel=1e-6)


def test_a_closure_without_backward_is_refused():
    model = net()
    before = weights(model)
    with pytest.raises(UsageError, match=r"left no gradient.*it must call loss\.backward\(\)"):
        sharp("sam", model).step(lambda: F.cross_entropy(model(batch()[0]), batch()[1]))
    assert bits(weights(model)) == bits(before)


@pytest.mark.parametrize("rule", ["sgd", "sam", "sampa"])
def test_a_step_inside_no_grad_is_a_step(rule):
    model, twin = net(), net()
    opt, other = sharp(rule, model), sharp(rule, twin)
    for t in range(2):
        with torch.no_grad():
            opt.step(batch(seed=t))
        other.step(batch(seed=t))
    assert bits(weights(model)) == bits(weights(twin))


def test_the_second_gradient_does_not_contain_the_first():
    """Plain SGD, so that the step is lr times the gradient at the perturbed point alone."""
    model = net()
    w, seen = weights(model), trail(model)
    g = gradient(net(), *batch())
    sharp("sam:rho=0.7", model, torch.optim.SGD(model.parameters(), lr=0.1)).step(batch())
    offset = [b - a for a, b in zip(seen[0], seen[1], strict=True)]
    torch.testing.assert_close(offset, [0.7 * v / joint_norm(g) for v in g], rtol=0, atol=1e-12)
    h = gradient(net(), *batch(), at=seen[1])
    torch.testing.assert_close(weights(model), [a - 0.1 * b for a, b in zip(w, h, strict=True)], rtol=0, atol=1e-12)

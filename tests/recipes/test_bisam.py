"""BiSAM: which loss it climbs, which it descends, and the bounds of the first."""

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from sharpkit import parse
from sharpkit.core.slots import AscentLoss
from sharpkit.core.task import Batch
from sharpkit.errors import UsageError
from sharpkit.recipes.bisam import SmoothedErrors
from tests.core.support import batch, joint_norm, net, sharp, trail, weights
from tests.recipes.lattice import KINDS, assert_close, finish, mix, perturbation


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

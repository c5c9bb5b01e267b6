"""The losses that SAF and MESA add, sample by sample, against plain autograd."""

import copy

import pytest
import torch
from torch.nn import functional as F

from sharpkit.core.task import tensors
from sharpkit.errors import UsageError
from tests.core.support import SAMPLES, batch, bits, everything, net, numbered, sharp, weights


def distance(z, target, tau):
    """tau^2 KL(target || z) of every row, written out."""
    p, q = torch.softmax(target / tau, 1), torch.softmax(z / tau, 1)
    return tau**2 * (p * (p.log() - q.log())).sum(1)


def descended(model, opt, given):
    """The vector that the base optimizer, plain descent with rate 1, got for a batch."""
    before = weights(model)
    opt.step(given)
    return [a - b for a, b in zip(before, weights(model), strict=True)]


def plain(rule, model, **options):
    return sharp(rule, model, torch.optim.SGD(model.parameters(), lr=1.0), **options)


def taught(model, x, y, targets, lam=0.3, tau=5.0):
    """The gradient of the mean loss, with what `targets` says for every row added; None adds nothing."""
    model = copy.deepcopy(model)
    z = model(x)
    losses = list(F.cross_entropy(z, y, reduction="none"))
    for i, target in enumerate(targets):
        if target is not None:
            losses[i] = losses[i] + lam * distance(z[i : i + 1], target[None], tau)[0]
    return list(torch.autograd.grad(sum(losses) / len(losses), list(model.parameters())))


# ---------------------------------------------------------------------- SAF


def follow(rule, epochs, kind="mlp", lag=1, start=0, **options):
    """Run lists of sample numbers, one list a step and epochs of equal length, next to a dictionary of outputs.

    The inputs of a sample change from epoch to epoch, as augmentation changes them.
    """
    model, record = net(kind), {}
    opt = plain(f"{rule}:lag={lag}:start={start}", model, steps_per_epoch=len(epochs[0]), **options)
    for epoch, batches in enumerate(epochs):
        for numbers in batches:
            x, y = batch(len(numbers), seed=hash((epoch, *numbers)) % 1000)
            past = [record.get((epoch - lag, i)) if epoch > start else None for i in numbers]
            record |= dict(zip([(epoch, i) for i in numbers], copy.deepcopy(model)(x).detach(), strict=True))
            yield taught(model, x, y, past), descended(model, opt, (x, y, torch.tensor(numbers))), past


ORDERS = [
    [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]],
    [[9, 2, 5, 7], [1, 8, 0, 3], [6, 4]],
    [[3, 4, 9, 0], [7, 6, 1, 2], [5, 8]],
]


@pytest.mark.parametrize(
    ("lag", "start", "active"),
    [(1, 0, {1, 2, 3}), (2, 0, {2, 3}), (3, 0, {3}), (1, 1, {2, 3}), (1, 2, {3}), (4, 0, set())],
)
def test_every_sample_finds_its_own_outputs_of_lag_epochs_before(lag, start, active):
    """In whatever order, and in a last batch that is smaller."""
    seen = set()
    epochs = [*ORDERS, ORDERS[1]]
    for step, (expected, got, past) in enumerate(follow("saf", epochs, lag=lag, start=start)):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
        if any(row is not None for row in past):
            seen.add(step // 3)
            assert all(row is not None for row in past)
    assert seen == active


GAPS = [
    [[0, 1, 2], [3, 4]],
    [[1, 5, 6], [0, 7]],  # 5, 6 and 7 are new
    [[2, 1, 8], [3, 9]],  # 2 and 3 were not seen in the epoch before
    [[0, 2, 1], [8, 5]],  # neither were 0 and 5, whose outputs are of older epochs
    [[3, 5, 6], [7, 0]],
]


@pytest.mark.parametrize("lag", [1, 2, 3])
def test_a_sample_without_a_record_of_that_very_epoch_adds_nothing(lag):
    """Not even an older one, and the mean is still over the whole batch."""
    mixed = 0
    for expected, got, past in follow("saf", GAPS, lag=lag):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
        mixed += len({row is None for row in past}) == 2
    assert mixed >= 1


@pytest.mark.parametrize("kind", ["batch-norm", "linear"])
def test_the_record_is_of_the_pass_that_trains(kind):
    """With the batch's own statistics and before the update, so also before the running ones are read."""
    for expected, got, _ in follow("saf", ORDERS, kind):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("parts", [{"accumulate": 2}, {"accumulate": 3}, {"rule": "msam+saf:rho=0:m=3"}])
def test_parts_of_a_batch_find_what_the_whole_would(parts):
    rule, options = parts.get("rule", "saf"), {k: v for k, v in parts.items() if k != "rule"}
    for expected, got, _ in follow(rule, ORDERS, **options):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_the_record_holds_no_graph():
    opt = sharp("saf:lag=1:start=0", net())
    for t in range(5):
        opt.step(numbered(seed=t))
    kept = list(tensors(opt.state_dict()["memory"]))
    assert kept
    assert not any(t.requires_grad for t in kept)


def test_sample_numbers_are_asked_for_at_the_first_step():
    model = net()
    opt = sharp("saf", model)
    before = everything(model, opt)
    with pytest.raises(UsageError, match=r"the rule saf needs indices.*opt\.step\(\(inputs, targets, indices\)\)"):
        opt.step(batch())
    assert everything(model, opt) == before


@pytest.mark.parametrize("number", [SAMPLES, -1])
def test_sample_numbers_out_of_range_are_refused(number):
    model = net()
    opt = sharp("saf", model)
    before = everything(model, opt)
    x, y, numbers = numbered()
    numbers[3] = number
    with pytest.raises(UsageError):
        opt.step((x, y, numbers))
    assert everything(model, opt) == before


# ---------------------------------------------------------------------- MESA


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("kind", ["mlp", "batch-norm"])
def test_the_teacher_is_the_average_in_evaluation_mode(kind, decay):
    """Of parameters and statistics, from the start of the run, also while it does not teach yet."""
    model = net(kind)
    opt = plain(f"mesa:start=0:decay={decay}", model, steps_per_epoch=2)
    teacher = copy.deepcopy(model).eval()
    for t in range(6):
        x, y = batch(seed=t)
        with torch.no_grad():
            z = teacher(x)
        expected = taught(model, x, y, z if t >= 2 else [None] * len(y))
        torch.testing.assert_close(descended(model, opt, (x, y)), expected, rtol=0, atol=1e-12)
        for mine, now in zip(teacher.state_dict().values(), model.state_dict().values(), strict=True):
            mine.copy_(decay * mine + (1 - decay) * now if mine.is_floating_point() else now)


def test_the_teacher_costs_a_forward_pass_while_it_teaches():
    model = net("batch-norm")
    opt = sharp("mesa:start=0", model)
    reports = [opt.step(batch(seed=t)) for t in range(8)]
    assert [r.forward_samples for r in reports] == [8] * 4 + [16] * 4
    assert [r.backward_samples for r in reports] == [8] * 8
    assert [r.gradients for r in reports] == [1] * 8
    assert [r.critical for r in reports] == [1] * 8


def test_the_teacher_draws_nothing_and_moves_nothing():
    """Dropout masks and statistics are those of a run whose teacher does not count."""
    ends = []
    for rule in ("mesa:start=0:lam=0", "sgd"):
        model = net("dropout")
        opt = sharp(rule, model)
        torch.manual_seed(0)
        for t in range(8):
            opt.step(batch(seed=t))
        ends.append((bits(model.state_dict()), bits(torch.get_rng_state()), [m.training for m in model.modules()]))
    assert ends[0] == ends[1]


# ---------------------------------------------------------------------- both


@pytest.mark.parametrize(
    "text",
    ["saf:lam=-0.1", "saf:tau=0", "saf:lag=0", "mesa:lam=-0.1", "mesa:tau=0", "mesa:decay=-0.1", "mesa:decay=1.5"],
)
def test_values_out_of_range_are_refused(text):
    name = text.split(":")[1].split("=")[0]
    with pytest.raises(UsageError, match=f"{name} is"):
        sharp(text, net())


def test_the_divergence_is_from_the_target_to_the_outputs():
    """The other direction has another gradient; this one's is tau (softmax(z / tau) - softmax(target / tau))."""
    generator = torch.Generator().manual_seed(0)
    z, target = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    z.requires_grad_()
    (slope,) = torch.autograd.grad(distance(z, target, 2.0).sum(), z)
    torch.testing.assert_close(slope, 2.0 * (torch.softmax(z / 2, 1) - torch.softmax(target / 2, 1)).detach())
    log = [torch.log_softmax(logits / 2, 1) for logits in (z, target)]
    (other,) = torch.autograd.grad(4.0 * (log[0].exp() * (log[0] - log[1])).sum(), z)
    assert float((slope - other).abs().max()) > 1e-2


def test_far_apart_outputs_give_finite_steps():
    """Softmax and logarithm taken apart would give 0 * inf."""
    model = net("linear", dtype=torch.float32)
    opt = sharp("saf:lag=1:start=0:tau=0.01", model, steps_per_epoch=1)
    for t in range(3):
        x, y, numbers = numbered(seed=4 * t, dtype=torch.float32)
        opt.step((100 * (-1) ** t * x, y, numbers))
    assert all(p.isfinite().all() for p in model.parameters())

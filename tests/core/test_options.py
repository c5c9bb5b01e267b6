"""Weight decay that is part of the loss, and radii that change over the run."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sharpkit import SharpnessAware
from sharpkit.errors import UsageError
from tests.core.support import LENGTHS, batch, bits, joint_norm, net, sharp, trail
from tests.reference import base as numpy_base
from tests.reference import reference
from tests.reference.problems import PROBLEMS, flat

STEPS = 10
MOMENTUM = {"lr": 0.1, "momentum": 0.9}


class Decayed:
    """A problem whose every gradient has decay * w added, at the w where it is taken."""

    def __init__(self, problem, decay):
        self.problem, self.decay = problem, decay

    def __getattr__(self, name):
        return getattr(self.problem, name)

    def gradient(self, w, *args, **kwargs):
        return self.problem.gradient(w, *args, **kwargs) + self.decay * w


DECAYED = {
    "sgd": {},
    "sam": {"rho": 0.3},
    "sampa": {"rho": 0.3, "lam": 0.4},
    "looksam": {"rho": 0.3, "k": 3},
    "gsam": {"rho_max": 0.3, "rho_min": 0.3, "alpha": 0.9},
    "msam": {"rho": 0.3, "m": 2},
    "asam": {"rho": 0.3},
    "vasso": {"rho": 0.3, "theta": 0.6},
}


@pytest.mark.parametrize("problem", ["mlp", "batch-norm", "layer-norm"])
@pytest.mark.parametrize("recipe", DECAYED)
def test_decay_in_the_loss_is_in_every_gradient(recipe, problem):
    """At w and at w + epsilon alike, so that it tilts epsilon too; the step's loss stays the task's."""
    settings, problem = DECAYED[recipe], PROBLEMS[problem]()
    decayed = Decayed(problem, 0.2)
    expected = reference(recipe).trajectory(decayed, numpy_base.SGD(**MOMENTUM), STEPS, **settings)
    text = ":".join([recipe, *(f"{key}={value}" for key, value in settings.items())])
    base = torch.optim.SGD(problem.model.parameters(), **MOMENTUM)
    lengths = {**LENGTHS, "total_steps": STEPS}
    opt = SharpnessAware(problem.model, base, text, loss=problem.loss, loss_decay=0.2, **lengths)
    path = [flat(problem.model)]
    for t in range(STEPS):
        opt.step(problem.batch(t))
        path.append(flat(problem.model))
    np.testing.assert_allclose(path, expected, rtol=0, atol=1e-10)


def end(rule, steps=6, kind="mlp", base=None, **options):
    model = net(kind)
    opt = sharp(rule, model, base and base(model.parameters()), **options)
    for t in range(steps):
        opt.step(batch(seed=t))
    return model


@pytest.mark.parametrize("nesterov", [False, True])
def test_without_a_perturbation_it_is_the_base_optimizers_own(nesterov):
    ends = []
    for own, loss in ((0.2, 0.0), (0.0, 0.2)):
        build = lambda ps, own=own: torch.optim.SGD(ps, **MOMENTUM, nesterov=nesterov, weight_decay=own)  # noqa: E731
        ends.append(end("sgd", base=build, loss_decay=loss).state_dict())
    torch.testing.assert_close(*ends, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rule", ["sam", "sampa", "msam:m=1"])
def test_no_decay_changes_no_bit(rule):
    assert bits(end(rule, loss_decay=0.0).state_dict()) == bits(end(rule).state_dict())


@pytest.mark.parametrize("rule", ["sam", "gnp", "sampa"])
def test_decay_is_added_once_however_many_micro_batches(rule):
    base = partial(torch.optim.SGD, **MOMENTUM)
    ends = [end(rule, base=base, loss_decay=0.2, accumulate=n).state_dict() for n in (1, 3)]
    torch.testing.assert_close(*ends, rtol=0, atol=1e-12)


def test_the_reported_loss_is_the_tasks():
    model = net()
    x, y = batch()
    expected = F.cross_entropy(model(x), y).item()
    base = torch.optim.SGD(model.parameters(), **MOMENTUM)
    assert float(sharp("sam", model, base, loss_decay=5.0).step((x, y)).loss) == pytest.approx(expected, abs=1e-14)


def test_decay_in_the_loss_and_in_the_base_optimizer_is_refused():
    with pytest.raises(UsageError, match=r"loss_decay is 0\.2, and the base optimizer decays.*weight_decay=0"):
        sharp("sam", net(), loss_decay=0.2)


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_a_decay_out_of_range_is_refused(value):
    with pytest.raises(UsageError, match="loss_decay is"):
        sharp("sam", net(), loss_decay=value)


# ---------------------------------------------------------------------- the radius


def radii(rule="sam:rho=0.2", steps=8, rates=None, **options):
    """How far each step's last pass was from where the step began, with learning rates that a scheduler sets."""
    model = net()
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(base, rates or (lambda t: 1.0))
    opt = sharp(rule, model, base, **options)
    seen = trail(model)
    lengths = []
    for t in range(steps):
        before = [p.detach().clone() for p in model.parameters()]
        seen.clear()
        opt.step(batch(seed=t))
        schedule.step()
        lengths.append(max(joint_norm([a - b for a, b in zip(point, before, strict=True)]) for point in seen))
    return lengths


def cosine(t):
    return (1 + math.cos(math.pi * t / 8)) / 2


def ramp(t):
    return min(1.0, (t + 1) / 4)


SCHEDULES = pytest.mark.parametrize(
    "options", [{"rho_schedule": "with-lr"}, {"rho_schedule": "warm-up", "rho_warmup": 1}], ids=str
)
RULES = pytest.mark.parametrize("rule", ["sam", "vasso", "gnp", "ae-sam:lam1=-4:lam2=-4", "gsam", "looksam:k=1"])


@RULES
@pytest.mark.parametrize("rates", [cosine, ramp, lambda t: 0.5**t])
def test_with_the_rate_the_radius_is_the_same_part_of_its_peak(rule, rates):
    expected = [0.2 * rates(t) for t in range(8)]
    assert radii(f"{rule}:rho=0.2", rates=rates, rho_schedule="with-lr") == pytest.approx(expected, rel=1e-9)


@RULES
@pytest.mark.parametrize("steps", [1, 3, 5, 100])
def test_in_a_warm_up_the_radius_grows_by_equal_parts(rule, steps):
    expected = [0.2 * min(1.0, (t + 1) / steps) for t in range(8)]
    assert radii(f"{rule}:rho=0.2", rates=cosine, rho_schedule="warm-up", rho_warmup=steps) == pytest.approx(
        expected, rel=1e-9
    )


@RULES
def test_a_constant_radius_is_constant(rule):
    for options in ({}, {"rho_schedule": "constant"}):
        assert radii(f"{rule}:rho=0.2", rates=cosine, **options) == pytest.approx([0.2] * 8, rel=1e-9)


@pytest.mark.parametrize("rule", ["sam", "sampa", "asam", "msam:m=1"])
@SCHEDULES
def test_a_schedule_at_its_top_changes_no_bit(rule, options):
    assert bits(end(rule, **options).state_dict()) == bits(end(rule).state_dict())


def test_a_warm_up_goes_on_where_it_was():
    """The place in it is that of the run, so a resumed optimizer does not begin anew."""
    model = net()
    opt = sharp("sam:rho=0.2", model, rho_schedule="warm-up", rho_warmup=8)
    for t in range(3):
        opt.step(batch(seed=t))
    again = sharp("sam:rho=0.2", model, rho_schedule="warm-up", rho_warmup=8)
    again.load_state_dict(opt.state_dict())
    seen = trail(model)
    again.step(batch(seed=3))
    apart = joint_norm([b - a for a, b in zip(seen[0], seen[1], strict=True)])
    assert apart == pytest.approx(0.2 * 4 / 8, rel=1e-9)


@pytest.mark.parametrize("rule", ["gsam:rho_max=0.3:rho_min=0.1", "ae-sam+gsam:rho_max=0.3:rho_min=0.1"])
@SCHEDULES
def test_a_rule_with_a_schedule_of_its_own_takes_no_other(rule, options):
    with pytest.raises(UsageError, match="rho_schedule"):
        sharp(rule, net(), **options)
    sharp(rule, net(), rho_schedule="constant")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"rho_schedule": "cosine"}, "rho_schedule is 'cosine'"),
        ({"rho_schedule": "warm-up"}, "rho_warmup"),
        ({"rho_schedule": "warm-up", "rho_warmup": 0}, "rho_warmup is 0"),
        ({"rho_schedule": "warm-up", "rho_warmup": -3}, "rho_warmup is -3"),
    ],
)
def test_a_schedule_that_is_not_one_is_refused(options, named):
    with pytest.raises(UsageError, match=named):
        sharp("sam", net(), **options)

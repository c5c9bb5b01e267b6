"""Learning rates against closed forms."""

import math
from itertools import pairwise

import pytest
import torch

from sharpkit.engine.config import TrainConfig
from sharpkit.engine.schedules import attach, factor


def rates(steps_per_epoch=10, **options):
    """The factor of every step of a run, and the one after its end."""
    config = TrainConfig(**{"epochs": 8, **options})
    return [factor(config, steps_per_epoch, t) for t in range(config.epochs * steps_per_epoch + 1)]


def test_cosine_starts_at_one_is_half_in_the_middle_and_ends_at_zero():
    got = rates(sched="cosine")
    assert got[0] == 1
    assert got[40] == pytest.approx(0.5, abs=1e-15)
    assert got[20] == pytest.approx((2 + math.sqrt(2)) / 4)
    assert got[79] == pytest.approx(math.sin(math.pi / 160) ** 2)
    assert got[80] == pytest.approx(0, abs=1e-15)
    assert all(a > b for a, b in pairwise(got))


def test_step_falls_tenfold_at_half_and_at_three_quarters():
    assert rates(sched="step") == [1.0] * 40 + [0.1] * 20 + [0.01] * 21


def test_const():
    assert rates(sched="const") == [1.0] * 81


@pytest.mark.parametrize("sched", ["cosine", "step", "const"])
@pytest.mark.parametrize(("warmup_epochs", "steps"), [(1, 10), (2.5, 25), (0.04, 0), (0.06, 1), (8, 80)])
def test_warm_up_is_linear_and_the_schedule_follows_on_the_rest(sched, warmup_epochs, steps):
    got = rates(sched=sched, warmup_epochs=warmup_epochs)
    assert got[:steps] == pytest.approx([(t + 1) / steps for t in range(steps)])
    if 0 < steps < 80:
        assert got[steps - 1] == got[steps] == 1
    rest = 80 - steps
    for t in range(steps, 80):
        done = (t - steps) / rest
        expected = {
            "cosine": math.cos(math.pi * done / 2) ** 2,
            "step": 10.0 ** -((done >= 0.5) + (done >= 0.75)),
            "const": 1,
        }
        assert got[t] == pytest.approx(expected[sched], rel=1e-12)


@pytest.mark.parametrize("sched", ["cosine", "step", "const"])
def test_one_epoch_of_warm_up_alone(sched):
    got = rates(epochs=1, warmup_epochs=1, sched=sched, steps_per_epoch=4)
    assert got[:4] == [0.25, 0.5, 0.75, 1.0]
    assert math.isfinite(got[4])


def test_every_step_of_the_base_optimizer_has_its_own_rate():
    config = TrainConfig(epochs=3, sched="cosine", warmup_epochs=1)
    weights = [torch.zeros(1, requires_grad=True) for _ in range(2)]
    base = torch.optim.SGD([{"params": weights[:1], "lr": 0.3}, {"params": weights[1:], "lr": 2.0}])
    scheduler = attach(base, config, 5)
    for t in range(15):
        for lr, group in zip((0.3, 2.0), base.param_groups, strict=True):
            assert group["lr"] == pytest.approx(lr * factor(config, 5, t), rel=1e-12)
        base.step()
        scheduler.step()

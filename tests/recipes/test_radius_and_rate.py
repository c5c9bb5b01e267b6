"""A radius that follows the learning rate."""

import math
from types import SimpleNamespace

import pytest
import torch

from sharpkit import parse
from sharpkit.errors import UsageError
from tests.core.support import batch, joint_norm, net, sharp, trail


def radii(base, schedule, steps, rule="gsam:rho_max=0.5:rho_min=0.1"):
    """How far the model is perturbed on every step, and the learning rate then."""
    model = net()
    optimizer = base(model.parameters())
    scheduler = schedule(optimizer)
    seen = trail(model)
    opt = sharp(rule, model, optimizer)
    found = []
    for t in range(steps):
        rate = optimizer.param_groups[0]["lr"]
        seen.clear()
        opt.step(batch(seed=t))
        found.append((joint_norm([b - a for a, b in zip(seen[0], seen[1], strict=True)]), rate))
        scheduler.step()
    return found


def descent(params):
    return torch.optim.SGD(params, lr=0.4, momentum=0.9)


def test_rho_follows_a_cosine_between_its_ends():
    found = radii(descent, lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=20), 21)
    for t, (rho, rate) in enumerate(found):
        assert rate == pytest.approx(0.2 * (1 + math.cos(math.pi * t / 20)), abs=1e-12)
        assert rho == pytest.approx(0.1 + 0.4 * rate / 0.4, rel=1e-10)
    assert [found[t][0] for t in (0, 10, 20)] == [pytest.approx(rho, rel=1e-9) for rho in (0.5, 0.3, 0.1)]


def test_rho_stays_between_its_ends_while_the_rate_warms_up():
    """From a rate of zero to beyond the peak that the scheduler started from."""
    factors = [0.0, 0.1, 0.5, 1.0, 1.5, 3.0, 0.2]
    found = radii(descent, lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda t: factors[min(t, 6)]), 7)
    assert [rate for _, rate in found] == pytest.approx([0.4 * f for f in factors])
    assert [rho for rho, _ in found] == pytest.approx([0.1 + 0.4 * min(1, f) for f in factors], rel=1e-9)


@pytest.mark.parametrize("base", [descent, lambda ps: torch.optim.AdamW(ps, lr=0.4)])
def test_rho_peaks_where_one_cycle_does(base):
    """The scheduler starts at a 25th of its peak, and overwrites the rate that the base was built with."""
    one_cycle = lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.02, total_steps=22)  # noqa: E731
    found = radii(base, one_cycle, 20)
    assert [rho for rho, _ in found] == [pytest.approx(0.1 + 0.4 * rate / 0.02, rel=1e-9) for _, rate in found]
    assert all(0.1 - 1e-12 <= rho <= 0.5 + 1e-12 for rho, _ in found)
    assert found[0][0] == pytest.approx(0.1 + 0.4 / 25, rel=1e-9)
    assert max(rho for rho, _ in found) == pytest.approx(0.5, abs=0.02)


def test_rho_is_at_its_peak_without_a_schedule_and_at_one_end_where_both_are_equal():
    flat = SimpleNamespace(step=lambda: None)
    assert [rho for rho, _ in radii(descent, lambda o: flat, 3)] == pytest.approx([0.5] * 3, rel=1e-9)
    cosine = lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=4)  # noqa: E731
    for rule in ("gsam:rho=0.2", "gsam:rho_max=0.2:rho_min=0.2"):
        assert [rho for rho, _ in radii(descent, cosine, 5, rule)] == pytest.approx([0.2] * 5, rel=1e-9)


def test_rho_follows_the_rate_in_a_union_with_a_gate():
    cosine = lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=6)  # noqa: E731
    found = radii(descent, cosine, 6, "ae-sam+gsam:rho_max=0.5:rho_min=0.1:lam1=-4:lam2=-4")
    assert [rho for rho, _ in found] == [pytest.approx(0.1 + rate, rel=1e-9) for _, rate in found]


@pytest.mark.parametrize("text", ["gsam:rho_max=0.1:rho_min=0.2", "gsam:rho_max=0.05", "gsam:rho_min=-0.1"])
def test_radii_that_cannot_be_are_refused(text):
    with pytest.raises(UsageError, match="rho_m"):
        parse(text)

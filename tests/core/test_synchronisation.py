"""A step never waits for the device: no tensor's value is read back to the host."""

import pytest
import torch

from sharpkit.core import vec
from tests.core.support import Reads, batch, net, sharp


def device_form(condition, v):
    """What vec.keep_if does off the CPU."""
    return [torch.where(condition, t, 0.0) for t in v]


def reads(rule, steps=4, **options):
    model = net("dropout", dtype=torch.float32)
    opt = sharp(rule, model, **options)
    batches = [batch(seed=t, dtype=torch.float32) for t in range(steps)]
    with Reads() as mode:
        for b in batches:
            opt.step(b)
    return mode.seen


@pytest.mark.parametrize("read", [lambda t: t.item(), bool, float, lambda t: torch.equal(t, t)])
def test_the_detector_sees_reads(read):
    with Reads() as mode:
        read(torch.ones(()))
    assert mode.seen


@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"clip": 0.1}, {"precision": "bf16"}], ids=str)
@pytest.mark.parametrize("rule", ["sgd", "sam", "asam", "sampa", "sampa:y_step=plain", "sampa+asam"])
def test_a_step_reads_nothing_back(rule, options, monkeypatch):
    monkeypatch.setattr(vec, "keep_if", device_form)
    assert reads(rule, **options) == []


@pytest.mark.parametrize(("rule", "expected"), [("sgd", 0), ("sam", 4), ("asam", 4), ("sampa", 7)])
def test_on_the_cpu_each_checked_norm_is_read_once(rule, expected):
    """Four steps: SAM checks what it climbs in each, SAMPa also what it stores, and does not climb in the first."""
    assert len(reads(rule)) == expected


def test_both_forms_of_keep_if_agree():
    """So the tests above run the same arithmetic that an accelerator does."""
    v = [torch.tensor([1.0, float("nan")]), torch.tensor([[-2.0]])]
    for condition in (torch.tensor(True), torch.tensor(False)):
        for a, b in zip(vec.keep_if(condition, v), device_form(condition, v), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def test_fp16_reads_whether_it_overflowed_once_a_step(monkeypatch):
    monkeypatch.setattr(vec, "keep_if", device_form)
    assert len(reads("sam", precision="fp16")) == 4

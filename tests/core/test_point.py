"""Weights come back bit for bit, whatever happens at w + epsilon."""

import signal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch.nn import functional as F

from sharpkit.core.point import displaced
from tests.core.support import batch, bits, everything, net, sharp

TYPES = st.sampled_from([torch.bfloat16, torch.float16, torch.float32, torch.float64])
SHAPES = st.lists(arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4), min_size=1, max_size=4)
RULES = ["sam:rho=3", "asam:rho=3", "sampa:rho=3", "sampa+asam:rho=3"]


@st.composite
def parameters(draw, offsets=(0.0, 1e-3, 1e3, float("nan"), float("inf"))):
    """Parameters and an offset: any shape, type and layout, with entries from tiny to infinite."""
    params, offset = [], []
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    for shape in draw(SHAPES):
        dtype, scale = draw(TYPES), draw(st.sampled_from([1e-30, 1e-3, 1.0, 1e30]))
        p = (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)
        if len(shape) == 4 and draw(st.booleans()):
            p = p.to(memory_format=torch.channels_last)
        params.append(p.requires_grad_())
        offset.append((torch.randn(shape, generator=generator) * draw(st.sampled_from(offsets))).to(dtype))
    return params, offset


@given(parameters(), st.booleans())
def test_displaced_restores_bit_for_bit(drawn, fails):
    params, offset = drawn
    before, storage = bits(params), [p.data_ptr() for p in params]
    inside = []

    def work():
        inside.extend(bits(params))
        if fails:
            raise ZeroDivisionError
        return "result"

    if fails:
        with pytest.raises(ZeroDivisionError):
            displaced(params, offset, work)
    else:
        assert displaced(params, offset, work) == "result"
    assert inside == bits([p.detach() + o for p, o in zip(params, offset, strict=True)])
    assert bits(params) == before
    assert [p.data_ptr() for p in params] == storage


def test_without_an_offset_nothing_is_copied():
    params = [torch.ones(2)]
    assert displaced(params, None, lambda: params[0].data_ptr()) == params[0].data_ptr()


class Trip:
    """Cross-entropy that, once armed, does something in its n-th call."""

    def __init__(self, action):
        self.action, self.left = action, -1

    def __call__(self, outputs, targets, reduction):
        self.left -= 1
        if self.left == 0:
            self.action()
        return F.cross_entropy(outputs, targets, reduction=reduction)


def failure():
    raise ZeroDivisionError


def interrupt():
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("which_pass", [1, 2])
@pytest.mark.parametrize(("action", "error"), [(failure, ZeroDivisionError), (interrupt, KeyboardInterrupt)])
@pytest.mark.parametrize("rule", RULES)
def test_a_step_that_does_not_finish_leaves_no_trace(rule, action, error, which_pass):
    """And the steps after it are those of a run in which it never was."""
    trip = Trip(action)
    model, twin = net("batch-norm"), net("batch-norm")
    opt, other = sharp(rule, model, loss=trip), sharp(rule, twin)
    for t in range(2):
        opt.step(batch(seed=t))
        other.step(batch(seed=t))
    before = everything(model, opt)
    trip.left = which_pass
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(error):
            opt.step(batch(seed=9))
    finally:
        signal.signal(signal.SIGINT, handler)
    assert everything(model, opt) == before
    assert all(p.grad is None for p in model.parameters())
    for t in (2, 3):
        opt.step(batch(seed=t))
        other.step(batch(seed=t))
    assert everything(model, opt) == everything(twin, other)


def test_a_failing_closure_leaves_no_trace():
    model = net("batch-norm")
    opt = sharp("sam", model)
    opt.step(batch())
    before, calls = everything(model, opt), []

    def closure():
        loss = F.cross_entropy(model(batch()[0]), batch()[1])
        loss.backward()
        calls.append(1)
        if len(calls) == 2:
            failure()
        return loss

    with pytest.raises(ZeroDivisionError):
        opt.step(closure)
    assert everything(model, opt) == before


@pytest.mark.parametrize("rule", RULES[:2])
def test_a_step_moves_the_weights_by_the_base_step_alone(rule):
    """With lr = 0 they stay bit for bit through ever so many perturbed passes."""
    model = net("batch-norm", dtype=torch.float32)
    before = bits(list(model.parameters()))
    opt = sharp(rule, model, torch.optim.SGD(model.parameters(), lr=0.0))
    for t in range(20):
        assert opt.step(batch(seed=t, dtype=torch.float32)).perturbed
    assert bits(list(model.parameters())) == before

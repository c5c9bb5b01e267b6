"""Gradients that a caller has accumulated before a step: never dropped without a word."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpkit.core.task import Batch
from sharpkit.errors import UsageError
from tests.core.support import batch, bits, everything, net, sharp, weights

DROPPED = r"a backward\(\) before step\(\) has left gradients on 0\.weight and 3 other parameters, which step\(\) would"


def backward(model, x, y, share=1.0):
    (share * F.cross_entropy(model(x), y)).backward()


def plain_sam(model, base, loss_fn, rho=0.05):
    """One step of SAM written out, with whatever passes `loss_fn` makes."""
    base.zero_grad()
    loss_fn()
    with torch.no_grad():
        norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
        old = [p.clone() for p in model.parameters()]
        for p in model.parameters():
            p.add_(p.grad, alpha=rho / float(norm))
    base.zero_grad()
    loss_fn()
    with torch.no_grad():
        for p, o in zip(model.parameters(), old, strict=True):
            p.copy_(o)
    base.step()


def closure_of(model, given, zero=None):
    def closure():
        if zero is not None:
            zero()
        total = torch.zeros(())
        for x, y in given:
            loss = F.cross_entropy(model(x), y) / len(given)
            loss.backward()
            total = total + loss.detach()
        return total

    return closure


@pytest.mark.parametrize("rule", ["sgd", "sam", "gsam", "sampa"])
def test_a_batch_is_refused_and_everything_is_as_it_was(rule):
    model = net()
    opt = sharp(rule, model)
    opt.step(batch())
    backward(model, *batch(seed=1))
    before, grads = everything(model, opt), [p.grad for p in model.parameters()]
    held = bits(grads)
    with pytest.raises(UsageError, match=DROPPED):
        opt.step(batch(seed=2))
    assert everything(model, opt) == before
    assert all(p.grad is g for p, g in zip(model.parameters(), grads, strict=True))
    assert bits(grads) == held
    opt.zero_grad()
    opt.step(batch(seed=2))


@pytest.mark.parametrize("rule", ["sgd", "sam"])
def test_a_closure_that_accumulates_is_refused_and_the_gradients_are_kept(rule):
    model = net()
    opt = sharp(rule, model)
    backward(model, *batch(seed=1))
    before, held = everything(model, opt), bits([p.grad for p in model.parameters()])
    with pytest.raises(UsageError, match=DROPPED):
        opt.step(closure_of(model, [batch()]))
    assert everything(model, opt) == before
    assert bits([p.grad for p in model.parameters()]) == held


@pytest.mark.parametrize("micro", [1, 3])
@pytest.mark.parametrize("zeroes", [True, False])
def test_a_closure_takes_the_step_of_all_its_micro_batches(micro, zeroes):
    """One that zeroes drops what was accumulated before by its own will, as under torch's optimizers."""
    model = net()
    twin = copy.deepcopy(model)
    opt = sharp("sam", model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    base = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    for t in range(3):
        given = [batch(seed=10 * t + k) for k in range(micro)]
        if zeroes:
            backward(model, *batch(seed=99))
        opt.step(closure_of(model, given, opt.zero_grad if zeroes else None))
        plain_sam(twin, base, closure_of(twin, given))
    for a, b in zip(weights(model), weights(twin), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("clear", ["opt", "base", "model"])
def test_gradients_set_to_zero_are_no_gradients(clear):
    model = net()
    opt = sharp("sam", model)
    for t in range(3):
        {"opt": opt, "base": opt.base, "model": model}[clear].zero_grad(set_to_none=False)
        opt.step(batch(seed=t))
    expected = net()
    other = sharp("sam", expected)
    for t in range(3):
        other.step(batch(seed=t))
    assert bits(weights(model)) == bits(weights(expected))


@pytest.mark.parametrize("options", [{}, {"clip": 0.1}])
def test_another_optimizer_goes_on_after_a_step(options):
    """What a step leaves to be looked at is no caller's."""
    model = net()
    first, second = sharp("sam", model, **options), sharp("sgd", model)
    first.step(batch())
    second.step(batch())
    first.step(closure_of(model, [batch()]))


def test_what_is_added_to_the_gradients_that_a_step_left_is_accumulated():
    model = net()
    opt = sharp("sam", model)
    opt.step(batch())
    model[0].weight.grad.add_(1)
    with pytest.raises(UsageError, match=r"left gradients on 0\.weight, which"):
        opt.step(batch())


def test_the_gradient_of_a_batch_leaves_those_of_the_caller():
    model = net()
    opt = sharp("sam", model)
    backward(model, *batch())
    held = bits([p.grad for p in model.parameters()])
    opt.gradient(Batch.of(batch(seed=1)))
    assert bits([p.grad for p in model.parameters()]) == held


def test_sparse_gradients_are_accumulated_too():
    model = nn.Sequential(nn.Embedding(5, 4, sparse=True), nn.Flatten(), nn.Linear(8, 3))
    opt = sharp("sam", model, torch.optim.SGD(model.parameters(), lr=0.1))
    x, y = torch.randint(5, (6, 2)), torch.randint(3, (6,))
    opt.step((x, y))
    model[0].weight.grad = None
    F.cross_entropy(model(x), y).backward(inputs=[model[0].weight])
    with pytest.raises(UsageError, match=r"left gradients on 0\.weight, which"):
        opt.step((x, y))


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (lambda loss: None, "the closure returned None"),
        (lambda loss: (loss, 3), "the closure returned tuple, allowed is the mean loss"),
        (lambda loss: loss.expand(4), r"the closure returned a torch\.float64 tensor of shape \(4,\), allowed is"),
    ],
)
def test_a_closure_that_returns_no_loss(returned, words):
    model = net()

    def closure():
        loss = F.cross_entropy(model(batch()[0]), batch()[1])
        loss.backward()
        return returned(loss)

    with pytest.raises(UsageError, match=words):
        sharp("sam", model).step(closure)
    assert bits(weights(model)) == bits(weights(net()))


@pytest.mark.parametrize("returned", [1, 0.5, torch.ones(1)])
def test_a_closure_may_return_a_number(returned):
    model = net()

    def closure():
        backward(model, *batch())
        return returned

    assert float(sharp("sam", model).step(closure).loss) == float(returned)


@pytest.mark.parametrize("left", [True, False])
def test_a_closure_without_backward(left):
    """The gradients of the last step, or of a caller, are not taken for its own."""
    model = net()
    opt = sharp("sam", model)
    if left:
        opt.step(batch())
    with pytest.raises(UsageError, match="the closure left no gradient in any trainable parameter"):
        opt.step(lambda: F.cross_entropy(model(batch()[0]), batch()[1]))

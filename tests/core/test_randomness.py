"""Which random masks each pass of a step draws."""

import pytest
import torch

from tests.core.support import Noted, batch, bits, net, sharp


@pytest.fixture
def model():
    """Dropout on inputs that are not zero, so that the masks can be read off the zeros behind it."""
    return torch.nn.Sequential(torch.nn.Dropout(0.5), Noted(), torch.nn.Linear(4, 3)).double()


def run(model, rule, steps=1, **options):
    opt = sharp(rule, model, **options)
    torch.manual_seed(7)
    for t in range(steps):
        opt.step(batch(seed=t))
    return [seen == 0 for seen in model[1].seen]


def drawn(n):
    """The masks that plain passes over the batches draw one after the other from the same seed."""
    torch.manual_seed(7)
    return [torch.nn.functional.dropout(torch.ones(8, 4, dtype=torch.float64)) == 0 for _ in range(n)]


@pytest.mark.parametrize("rule", ["sam", "asam"])
def test_the_second_pass_replays_the_masks_of_the_first(model, rule):
    first, second, third, fourth = run(model, rule, steps=2)
    expected = drawn(2)
    assert torch.equal(first, second)
    assert torch.equal(third, fourth)
    assert torch.equal(first, expected[0])
    assert torch.equal(third, expected[1])
    assert not torch.equal(first, third)


def test_fresh_masks_are_the_next_of_the_stream(model):
    for got, expected in zip(run(model, "sam", steps=2, rng="fresh"), drawn(4), strict=True):
        assert torch.equal(got, expected)


def test_sampa_replays_the_masks_of_the_batch_before(model):
    q0, h1, q1, h2, q2 = run(model, "sampa", steps=3)
    for got, expected in zip((q0, q1, q2), drawn(3), strict=True):
        assert torch.equal(got, expected)
    assert torch.equal(h1, q0)
    assert torch.equal(h2, q1)


def test_micro_batches_replay_their_own_masks(model):
    seen = run(model, "sam", accumulate=3)
    clean = torch.cat(seen[:3])
    assert torch.equal(clean, torch.cat(seen[3:]))
    assert not torch.equal(clean[:2], clean[2:4])


def test_one_batch_twice_draws_twice(model):
    opt, whole = sharp("sam", model), batch()
    for _ in range(2):
        opt.step(whole)
    first, _, second, _ = (seen == 0 for seen in model[1].seen)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("rule", ["sgd", "sam", "asam", "sampa"])
def test_the_global_stream_advances_as_in_one_pass(rule):
    """Seen by a caller who draws from it between steps over batches of several sizes."""
    model, twin = net("dropout"), net("dropout")
    opt = sharp(rule, model)
    drawn = {}
    for name, take in (("engine", lambda b: opt.step(b)), ("plain", lambda b: twin(b[0]))):
        torch.manual_seed(3)
        drawn[name] = []
        for t in range(4):
            take(batch(8 - t, seed=t))
            drawn[name].append(torch.rand(3))
    assert bits(drawn["engine"]) == bits(drawn["plain"])


def test_a_step_that_raises_puts_the_global_stream_where_the_first_pass_left_it():
    model, twin = net("dropout"), net("dropout")
    calls = []

    def loss(outputs, targets, reduction):
        calls.append(1)
        if len(calls) == 2:
            raise ZeroDivisionError
        return torch.nn.functional.cross_entropy(outputs, targets, reduction=reduction)

    torch.manual_seed(3)
    with pytest.raises(ZeroDivisionError):
        sharp("sam", model, loss=loss).step(batch())
    after = torch.get_rng_state()
    torch.manual_seed(3)
    twin(batch()[0])
    assert bits(after) == bits(torch.get_rng_state())

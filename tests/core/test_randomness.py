"""Which random masks each pass of a step draws."""

import random

import numpy as np
import pytest
import torch

from sharpkit.core import randomness
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


STREAMS = {"python": random.random, "python normal": lambda: random.gauss(0, 1), "numpy": np.random.rand}
STREAMS["numpy normal"] = lambda: np.random.randn()  # every second one is drawn from store, the words unmoved


class LayerDrop(torch.nn.Module):
    """Layers that are dropped by draws from a global stream of the host, noting what was drawn."""

    def __init__(self, draw):
        super().__init__()
        self.draw, self.seen = draw, []
        self.layers = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(3))
        self.head = torch.nn.Linear(4, 3)
        self.double()

    def forward(self, x):
        drawn = [self.draw() for _ in self.layers]
        self.seen.append(drawn)
        for u, layer in zip(drawn, self.layers, strict=True):
            x = x + torch.tanh(layer(x)) if u < 0.5 else x
        return self.head(x)


def seed_host():
    random.seed(3)
    np.random.seed(3)


@pytest.fixture
def _host():
    before = random.getstate(), np.random.get_state()
    yield
    random.setstate(before[0])
    np.random.set_state(before[1])


@pytest.mark.usefixtures("_host")
@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize(
    ("rule", "options", "order"),
    [
        ("sgd", {}, "0 1 2"),
        ("sam", {}, "0 0 1 1 2 2"),
        ("sam", {"accumulate": 2}, "01 01 23 23 45 45"),
        ("msam:m=2", {}, "0 0 1 1 2 2 3 3 4 4 5 5"),
        ("sampa", {}, "0 0 1 1 2"),
        ("sam", {"rng": "fresh"}, "0 1 2 3 4 5"),
    ],
)
def test_draws_of_python_and_numpy_are_the_same_in_all_passes_over_a_batch(stream, rule, options, order):
    """The k-th group of draws of each evaluation, and the stream afterwards, against draws made one after another."""
    model = LayerDrop(STREAMS[stream])
    opt = sharp(rule, model, **options)
    seed_host()
    for t in range(3):
        opt.step(batch(seed=t))
    after = STREAMS[stream]()
    groups = [int(k) for k in order.replace(" ", "")]
    seed_host()
    expected = [[STREAMS[stream]() for _ in range(3)] for _ in range(1 + max(groups))]
    assert model.seen == [expected[k] for k in groups]
    assert after == STREAMS[stream]()


@pytest.mark.usefixtures("_host")
@pytest.mark.parametrize("stream", STREAMS)
def test_a_closure_draws_the_same_in_both_passes(stream):
    model = LayerDrop(STREAMS[stream])
    opt = sharp("sam", model)
    seed_host()

    def closure():
        loss = torch.nn.functional.cross_entropy(model(batch()[0]), batch()[1])
        loss.backward()
        return loss

    opt.step(closure)
    assert len(model.seen) == 2
    assert model.seen[0] == model.seen[1]


@pytest.mark.usefixtures("_host")
@pytest.mark.parametrize("stream", STREAMS)
def test_a_stored_state_replays_the_draws_of_python_and_numpy(stream, tmp_path):
    """SAMPa goes back to the batch of the step before, which here was taken before the state was stored."""
    model = LayerDrop(STREAMS[stream])
    opt = sharp("sampa", model)
    seed_host()
    opt.step(batch())
    torch.save(opt.state_dict(), tmp_path / "state.pt")
    again = LayerDrop(STREAMS[stream])
    other = sharp("sampa", again)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    other.step(batch(seed=1))
    assert model.seen[0] in again.seen
    assert len(again.seen) == 2


@pytest.mark.usefixtures("_host")
@pytest.mark.parametrize("kind", ["MT19937", "PCG64", "Philox"])
def test_any_generator_that_numpy_may_be_given_is_put_back(kind):
    before = np.random.get_bit_generator()
    np.random.set_bit_generator(getattr(np.random, kind)(5))
    try:
        for draw in (np.random.rand, np.random.randn):
            state = randomness.capture(torch.device("cpu"))
            first = [draw() for _ in range(7)]
            randomness.restore(state, torch.device("cpu"))
            assert [draw() for _ in range(7)] == first
    finally:
        np.random.set_bit_generator(before)


@pytest.mark.usefixtures("_host")
def test_a_state_as_tensors_is_the_state():
    random.gauss(0, 1)
    np.random.randn()
    state = randomness.capture(torch.device("cpu"))
    again = randomness.from_tensors(randomness.to_tensors(state))
    assert again["host"] == state["host"]
    assert bits(again["torch"]) == bits(state["torch"])
    assert [f.shape for f in randomness.forms(state)] == [t.shape for t in randomness.to_tensors(state)]


def test_a_state_of_an_earlier_version_replays_the_masks_of_torch():
    torch.manual_seed(5)
    stored = [torch.get_rng_state()]
    expected = torch.rand(3)
    randomness.restore(randomness.of_stored(stored), torch.device("cpu"))
    assert torch.equal(torch.rand(3), expected)

"""What a user's own loop gets wrong: told at once, in one line, before anything has moved."""

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpkit import SharpnessAware
from sharpkit.diagnostics import hessian
from sharpkit.errors import InputError, UsageError
from tests.core.support import batch, bits, everything, net, sharp, weights


class OwnTask:
    def __init__(self, model, losses):
        self.model, self._losses = model, losses

    def outputs(self, batch):
        return self.model(batch.inputs)

    def losses(self, outputs, batch):
        return self._losses(outputs, batch.targets)


@pytest.mark.parametrize(
    "losses",
    [
        lambda o, t: F.cross_entropy(o, t),
        lambda o, t: F.cross_entropy(o, t, reduction="none")[:, None].expand(-1, 5),
        lambda o, t: F.cross_entropy(o, t, reduction="none")[:-1],
    ],
)
@pytest.mark.parametrize("options", [{}, {"accumulate": 2}])
def test_a_task_whose_losses_are_not_one_a_sample(losses, options):
    """They would scale the gradient without a word."""
    model = net()
    with pytest.raises(UsageError, match=r"the task's losses have shape .* for a batch of \d, allowed is \(\d,\)"):
        sharp("sam", model, loss=OwnTask(model, losses), **options).step(batch())
    assert bits(weights(model)) == bits(weights(net()))


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), lambda o, t: F.cross_entropy(o, t)])
def test_a_loss_without_reduction(loss):
    model = net()
    with pytest.raises(UsageError, match=r'allowed are a function \(outputs, targets, reduction="none"\) -> \(B,\)'):
        sharp("sam", model, loss=loss)


class Wrapped(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.net, self.wrap = net(), wrap

    def forward(self, x):
        return self.wrap(self.net(x))


class ModelOutput(OrderedDict):
    """As Hugging Face's models return it."""


@pytest.mark.parametrize(
    ("wrap", "words"),
    [
        (lambda o: (o, o), r"tuple, allowed is a tensor \(give a Task whose .* such as outputs\[0\]\)"),
        (lambda o: [o], "list, allowed is a tensor"),
        (lambda o: {"logits": o}, r"dict of logits, allowed is a tensor .* such as outputs\['logits'\]"),
        (lambda o: ModelOutput(logits=o, hidden=o), "ModelOutput of logits, hidden, allowed is a tensor"),
        (lambda o: None, "NoneType, allowed is a tensor"),
    ],
)
@pytest.mark.parametrize(
    "loss", [F.cross_entropy, lambda o, t, reduction: F.cross_entropy(o[0], t, reduction=reduction)]
)
def test_outputs_that_are_no_tensor(wrap, words, loss):
    """Even where the loss knows how to take them apart; and by a diagnostic."""
    model = Wrapped(wrap)
    with pytest.raises(UsageError, match=f"the task's outputs are {words}"):
        sharp("sam", model, loss=loss).step(batch())
    with pytest.raises(UsageError, match=f"the task's outputs are {words}"):
        hessian(model, loss, [batch()])


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda o, t, reduction: None, "the loss returned NoneType, allowed is a tensor"),
        (lambda o, t, reduction: 3, "the loss returned int, allowed is a tensor"),
        (lambda o, t, reduction: t, "does not depend on any parameter .* do not detach"),
        (lambda o, t, reduction: o[:, 0].detach(), "does not depend on any parameter .* do not detach"),
        (lambda o, t, reduction: o[:, 0] * 1j, r"losses are torch\.complex128, allowed are real numbers"),
    ],
)
def test_losses_that_are_none(loss, words):
    model = net()
    with pytest.raises(UsageError, match=words):
        sharp("sam", model, loss=loss).step(batch())
    assert bits(weights(model)) == bits(weights(net()))


@pytest.mark.parametrize(
    ("losses", "words"),
    [(lambda o, t: None, "the task's losses are NoneType"), (lambda o, t: 3.0, "the task's losses are float")],
)
def test_a_task_whose_losses_are_no_tensor(losses, words):
    model = net()
    with pytest.raises(UsageError, match=words):
        sharp("sam", model, loss=OwnTask(model, losses)).step(batch())


def test_outputs_that_would_be_compared_with_all_targets():
    """(B, 1) with (B,) makes (B, B) without a word, where the loss is not torch's."""
    model = nn.Linear(4, 1).double()
    x = batch()[0]
    square = lambda o, t, reduction: (o - t) ** 2  # noqa: E731
    with pytest.raises(UsageError, match=r"the loss returned shape \(8, 8\): outputs of shape \(8, 1\) .*\(8,\), each"):
        sharp("sam", model, loss=square).step((x, x[:, 0]))
    expected = ((model(x) - x[:, :1]) ** 2).mean().item()
    assert float(sharp("sam", model, loss=square).step((x, x[:, :1])).loss) == pytest.approx(expected)


@pytest.mark.parametrize(
    "loss",
    [lambda o, t, reduction: (o - t[:, None].expand(-1, 3)) ** 2, lambda o, t, reduction: o @ o.T],
)
def test_losses_of_several_values_a_sample_are_averaged(loss):
    """Also where each sample is compared with all others by the loss's own will."""
    model, (x, y) = net(), batch()
    expected = loss(model(x), y, "none").mean().item()
    assert float(sharp("sam", model, loss=loss).step((x, y)).loss) == pytest.approx(expected)


def test_parameters_of_another_model():
    model, other = net(), net(seed=1)
    opt = SharpnessAware(model, torch.optim.SGD(other.parameters(), lr=0.1), "sam", loss=F.cross_entropy)
    with pytest.raises(UsageError, match=r"does not depend on any parameter of the base optimizer \(build the base"):
        opt.step(batch())


def test_an_ordinary_loop():
    with pytest.raises(UsageError, match=r"step\(\) was given nothing \(call opt\.step\(\(inputs, targets\)\)"):
        sharp("sam", net()).step()


def test_everything_frozen_between_two_steps():
    model = net()
    opt = sharp("sam", model)
    opt.step(batch())
    model.requires_grad_(False)
    with pytest.raises(UsageError, match="no parameter of the base optimizer is trainable any more"):
        opt.step(batch())


@pytest.mark.parametrize("rule", ["sgd", "sam", "asam", "sampa", "gsam"])
def test_sparse_gradients_are_the_dense_ones(rule):
    ends = []
    for sparse in (True, False):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = nn.Sequential(nn.Embedding(10, 4, sparse=sparse), nn.Flatten(), nn.Linear(12, 3)).double()
        opt = sharp(rule, model)
        for t in range(3):
            x = torch.randint(10, (8, 3), generator=torch.Generator().manual_seed(t))
            opt.step((x, batch(seed=t)[1]))
        ends.append(weights(model))
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", ["total_steps", "steps_per_epoch"])
def test_a_run_of_no_steps(name):
    with pytest.raises(UsageError, match=rf"{name} is 0, allowed is \[1, inf\)"):
        sharp("sam", net(), **{name: 0})


def test_steps_beyond_the_length_of_the_run_stay_at_its_end():
    opt = sharp("sam", net(), total_steps=2)
    for t in range(5):
        opt.step(batch(seed=t))
    assert opt.clock.progress == 1.0


@pytest.mark.parametrize("field", ["rule", "base", "memory", "precision", "generator", "totals", "tallies"])
def test_an_incomplete_state_changes_nothing(field):
    model = net()
    opt = sharp("sampa", model)
    opt.step(batch())
    state = opt.state_dict()
    other = sharp("sampa", model)
    before = everything(model, other)
    del state[field]
    with pytest.raises(InputError, match=f"the optimizer state has no {field}"):
        other.load_state_dict(state)
    assert everything(model, other) == before


@pytest.mark.parametrize(
    "base", [lambda ps: torch.optim.Adam(ps), lambda ps: torch.optim.SGD([{"params": [p]} for p in ps], lr=0.1)]
)
def test_the_state_of_another_base(base):
    model = net()
    opt = sharp("sam", model, base(list(model.parameters())))
    opt.step(batch())
    with pytest.raises(InputError, match="of another base optimizer or of other parameters"):
        sharp("sam", net()).load_state_dict(opt.state_dict())


def test_the_order_of_names_in_a_union_does_not_matter_to_a_state():
    model = net()
    opt = sharp("sampa+asam", model)
    opt.step(batch())
    sharp("asam+sampa", model).load_state_dict(opt.state_dict())

"""What a user's own loop gets wrong: told at once, in one line, before anything has moved."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpkit import SharpnessAware
from sharpkit.errors import UsageError
from tests.core.support import batch, bits, net, sharp, weights


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


@pytest.mark.parametrize("outputs", [lambda o: (o, o), lambda o: {"logits": o}])
def test_outputs_that_are_no_tensor(outputs):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net()

        def forward(self, x):
            return outputs(self.net(x))

    loss = lambda o, t, reduction: F.cross_entropy(next(iter(o)), t, reduction=reduction)  # noqa: E731
    with pytest.raises((UsageError, AttributeError, TypeError)) as told:
        sharp("sam", Wrapped(), loss=loss).step(batch())
    if not isinstance(told.value, UsageError):
        pytest.skip("the loss itself failed first")
    assert "allowed is a tensor" in told.value.message


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

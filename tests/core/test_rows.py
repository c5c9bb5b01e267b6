"""Weight gradients on some rows: those rows of the whole gradient, everything else as ever."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpkit.core.rows import SomeRows, can_see_into

LAYERS = {
    "linear": (lambda: nn.Linear(5, 6), (7, 5)),
    "linear-tokens": (lambda: nn.Linear(5, 6, bias=False), (3, 4, 5)),
    "conv": (lambda: nn.Conv2d(3, 6, 3, padding=1), (2, 3, 8, 8)),
    "conv-stride": (lambda: nn.Conv2d(3, 6, (3, 2), stride=(2, 1), dilation=(1, 2), bias=False), (2, 3, 8, 8)),
    "conv-groups": (lambda: nn.Conv2d(4, 6, 3, groups=2), (2, 4, 8, 8)),
    "conv-same": (lambda: nn.Conv2d(3, 6, 3, padding="same"), (2, 3, 8, 8)),
}
WHOLE = ("conv-groups", "conv-same")  # whose weights keep their whole gradient


def gradients(layer, x, rows=None):
    def run():
        return torch.autograd.grad(layer(x).sin().sum(), [x, *layer.parameters()])

    if rows is None:
        return run()
    with SomeRows({id(layer.weight): torch.tensor(rows)}):
        return run()


@pytest.mark.parametrize("rows", [[3], [0, 5], [0, 1, 2, 3, 4, 5]])
@pytest.mark.parametrize("kind", LAYERS)
def test_rows_of_the_whole_gradient(kind, rows):
    torch.manual_seed(0)
    make, shape = LAYERS[kind]
    layer, x = make().double(), torch.randn(*shape, dtype=torch.float64, requires_grad=True)
    expected, found = gradients(layer, x), gradients(layer, x, rows)
    kept = torch.zeros(6, dtype=torch.bool).index_fill(0, torch.tensor(rows), True)
    if kind in WHOLE:
        kept[:] = True
    masked = expected[1] * kept.view(6, *[1] * (expected[1].dim() - 1))
    for a, b in zip(found, (expected[0], masked, *expected[2:]), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_the_outputs_are_the_same_bit_for_bit():
    layer, x = nn.Conv2d(3, 6, 3), torch.randn(2, 3, 8, 8)
    with SomeRows({id(layer.weight): torch.tensor([1])}):
        out = layer(x)
    assert torch.equal(out, layer(x))


def test_the_weights_of_other_layers_have_their_whole_gradient():
    one, two, x = nn.Linear(4, 4), nn.Linear(4, 4), torch.randn(3, 4)
    with SomeRows({id(one.weight): torch.tensor([2])}):
        first, second = torch.autograd.grad(two(one(x).tanh()).sin().sum(), [one.weight, two.weight])
    assert first.abs().sum(1).nonzero().flatten().tolist() == [2]
    assert (second.abs().sum(1) > 0).all()


def test_under_autocast_the_gradient_is_whole_and_in_the_weights_type():
    layer, x = nn.Linear(4, 4), torch.randn(3, 4)
    with SomeRows({id(layer.weight): torch.tensor([2])}), torch.autocast("cpu", torch.bfloat16):
        loss = F.mse_loss(layer(x).float(), torch.ones(3, 4))
    (grad,) = torch.autograd.grad(loss, [layer.weight])
    assert grad.dtype == torch.float32
    assert (grad.abs().sum(1) > 0).all()


def test_a_compiled_model_is_not_seen_into():
    model = nn.Sequential(nn.Linear(2, 2))
    assert can_see_into(model)
    assert not can_see_into(torch.compile(model, backend="eager"))
    model.compile(backend="eager")
    assert not can_see_into(model)

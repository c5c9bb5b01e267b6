"""A rule's perturbation at weights that do not move."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpkit.core.still import Still
from sharpkit.errors import UsageError
from sharpkit.recipes import RECIPES
from sharpkit.recipes.grammar import parse
from tests.diagnostics.support import net, samples

A = torch.tensor([[3.0, 1.0], [1.0, -2.0]], dtype=torch.float64)
W = torch.tensor([0.6, -0.4], dtype=torch.float64)


def quadratic():
    """1/2 w'Aw - (mean of the inputs)'w as a model, with a batch that has three samples."""
    model = nn.Linear(2, 1, bias=False).double()
    model.weight.data[0] = W

    class Loss:
        def outputs(self, batch):
            w = model.weight[0]
            return 0.5 * w @ A @ w - batch.inputs @ w

        def losses(self, outputs, batch):
            return outputs

    inputs = torch.tensor([[1.0, 0.0], [0.5, 2.0], [-1.0, 1.0]], dtype=torch.float64)
    return model, Loss(), (inputs, torch.zeros(3))


def gradient(w, inputs):
    return A @ w - inputs.mean(0)


def test_the_gradient_at_the_perturbed_point_is_that_of_the_equations():
    model, loss, batch = quadratic()
    g = gradient(W, batch[0])
    look = Still(model, loss, parse("sam:rho=0.3")).look(batch)
    torch.testing.assert_close(look.grad[0][0], g, rtol=1e-12, atol=0)
    torch.testing.assert_close(look.perturbed[0][0], gradient(W + 0.3 * g / g.norm(), batch[0]), rtol=1e-12, atol=0)
    t = W.abs() + 0.01
    there = W + 0.3 * t * t * g / (t * g).norm()
    look = Still(model, loss, parse("asam:rho=0.3")).look(batch)
    torch.testing.assert_close(look.perturbed[0][0], gradient(there, batch[0]), rtol=1e-11, atol=0)


def test_of_shards_it_is_the_mean():
    model, loss, batch = quadratic()
    look = Still(model, loss, parse("msam:m=3:rho=0.3")).look(batch)
    each = []
    for x in batch[0].split(1):
        g = gradient(W, x)
        each.append(gradient(W + 0.3 * g / g.norm(), x))
    torch.testing.assert_close(look.perturbed[0][0], torch.stack(each).mean(0), rtol=1e-11, atol=0)
    torch.testing.assert_close(look.grad[0][0], gradient(W, batch[0]), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", [n for n in RECIPES if n not in ("sgd", "saf", "mesa", "sampa")])
def test_every_recipe_that_perturbs_leaves_everything_as_it_was(name):
    model, (x, y) = net("cnn"), samples("cnn")
    model.train(name != "msam")  # whose shards each have batch statistics of their own
    before = {key: value.clone() for key, value in model.state_dict().items()}
    looks = [
        Still(model, F.cross_entropy, RECIPES[name](), draw=lambda n, _: (x[:n], y[:n])).look((x, y)) for _ in range(2)
    ]
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    for a, b in zip(looks[0].perturbed, looks[1].perturbed, strict=True):
        assert torch.equal(a, b)
    assert all(torch.isfinite(t).all() for t in looks[0].perturbed)
    expected = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
    for mine, theirs in zip(looks[0].grad, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


def test_both_gradients_have_the_same_dropout_mask():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.Dropout(0.5), nn.Linear(64, 3)).double()
    x, y = torch.randn(20, 8, dtype=torch.float64), torch.randint(3, (20,))
    look = Still(model, F.cross_entropy, parse("sam:rho=1e-9")).look((x, y))
    for a, b in zip(look.grad, look.perturbed, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("recipe", ["sgd", "saf", "sampa", "sampa+asam"])
def test_a_recipe_that_has_no_perturbation_of_its_own_is_refused(recipe):
    model, loss, _ = quadratic()
    with pytest.raises(UsageError, match=r"never perturbs|needs past"):
        Still(model, loss, parse(recipe))

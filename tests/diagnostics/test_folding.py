"""Folded batch norm: the same function and the same derivatives, and nothing is folded that may not be."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpkit.core.task import Batch, Supervised
from sharpkit.diagnostics.curvature.matrices import Curvature
from sharpkit.diagnostics.folding import folded
from sharpkit.diagnostics.problem import opened
from tests.core.support import bits
from tests.diagnostics.support import net, samples


def pairs_of(model, x, y):
    with folded(model.eval(), Supervised(model, F.cross_entropy), Batch(x, y)) as folding:
        outputs = model(x)
    return len(folding.pairs.found), outputs


@pytest.mark.parametrize(("kind", "count"), [("cnn", 2), ("mlp", 0), ("residual", 0)])
def test_outputs_are_the_same_and_the_model_is_left_alone(kind, count):
    model, (x, y) = net(kind).eval(), samples()
    before = bits(model.state_dict())
    found, outputs = pairs_of(model, x, y)
    assert found == count
    torch.testing.assert_close(outputs, model(x), rtol=1e-12, atol=1e-12)
    assert bits(model.state_dict()) == before
    assert all("forward" not in vars(m) for m in model.modules())


def test_linear_grouped_and_strided_layers():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1, groups=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding="same", groups=2, bias=False),
        nn.BatchNorm2d(4),
        nn.Flatten(),
        nn.Linear(16, 5),
        nn.BatchNorm1d(5),
        nn.Tanh(),
        nn.Linear(5, 3),
    ).double()
    for module in model:
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.running_var, 0.5, 2)
    x, y = samples()
    count, outputs = pairs_of(model, x, y)
    assert count == 3
    torch.testing.assert_close(outputs, model(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("params", [None, r"\.weight", r"^1\."])
def test_products_are_the_same_for_any_parameters(params):
    model, (x, y) = net("cnn"), samples()
    images = []
    for fold in (True, False):
        with opened(model, F.cross_entropy, [(x, y)], params=params, fold=fold) as problem:
            vector = torch.linspace(-1, 1, problem.size, dtype=torch.float64)
            images.append(Curvature(problem).product(vector))
    torch.testing.assert_close(*images, rtol=1e-10, atol=1e-12)


def test_layers_that_are_called_twice_circular_or_hooked_are_not_folded():
    torch.manual_seed(0)
    shared = nn.Conv2d(1, 1, 3, padding=1)
    twice = nn.Sequential(shared, nn.BatchNorm2d(1), shared, nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(16, 3)).double()
    x, y = samples()
    assert pairs_of(twice, x, y)[0] == 0
    circular = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"), nn.BatchNorm2d(2), nn.Flatten())
    assert pairs_of(circular.double(), x, y)[0] == 0
    hooked = net("cnn")
    hooked[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    assert pairs_of(hooked, x, y)[0] == 1

"""Shapes and sizes of the two small models by hand."""

import pytest
import torch
from torch import nn

from sharpkit.errors import UsageError
from sharpkit.models import MODELS


def size(model):
    return sum(p.numel() for p in model.parameters())


def mlp_size(inputs, classes):
    return 256 * (inputs + 1) + 256 * (256 + 1) + classes * (256 + 1)


def cnn_size(channels, classes):
    convolutions = 9 * (channels * 32 + 32 * 32 + 32 * 64 + 64 * 64)
    return convolutions + 2 * (32 + 32 + 64 + 64) + classes * (64 + 1)


@pytest.mark.parametrize(("shape", "inputs"), [((1, 8, 8), 64), ((3, 5, 7), 105), ((13,), 13), ((2, 3), 6)])
@pytest.mark.parametrize("classes", [2, 10])
def test_mlp(shape, inputs, classes):
    model = MODELS["mlp"](shape, classes)
    assert size(model) == mlp_size(inputs, classes)
    assert model(torch.randn(3, *shape)).shape == (3, classes)
    assert not list(model.buffers())


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 5), (1, 28, 28), (2, 1, 1), (1, 1, 6)])
@pytest.mark.parametrize("classes", [2, 10])
def test_cnn(shape, classes):
    model = MODELS["cnn"](shape, classes)
    assert size(model) == cnn_size(shape[0], classes)
    assert model(torch.randn(3, *shape)).shape == (3, classes)


def test_the_cnn_of_the_packaged_data():
    """64,800 weights of convolutions, 384 of batch norm, 650 of the read-out."""
    assert size(MODELS["cnn"]((1, 8, 8), 10)) == 65_834


def test_the_cnn_halves_the_image_once_in_the_middle():
    model = MODELS["cnn"]((1, 28, 20), 10)
    seen = []
    for module in model:
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _, __, out: seen.append(tuple(out.shape[1:])))
    model(torch.randn(2, 1, 28, 20))
    assert seen == [(32, 28, 20), (32, 28, 20), (64, 14, 10), (64, 14, 10)]


@pytest.mark.parametrize("shape", [(13,), (8, 8), (1, 2, 3, 4)])
def test_the_cnn_needs_images(shape):
    with pytest.raises(UsageError, match=r"cnn needs images \(C, H, W\).*--model mlp"):
        MODELS["cnn"](shape, 10)


@pytest.mark.parametrize("name", ["cnn", "mlp"])
def test_inputs_of_another_shape_are_refused_by_torch(name):
    model = MODELS[name]((1, 8, 8), 10)
    with pytest.raises(RuntimeError):
        model(torch.randn(2, 3, 9, 9))


@pytest.mark.parametrize("name", ["cnn", "mlp"])
def test_initial_weights_follow_the_global_seed(name):
    weights = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        weights.append(nn.utils.parameters_to_vector(MODELS[name]((1, 8, 8), 10).parameters()))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])

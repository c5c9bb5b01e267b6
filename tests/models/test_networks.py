"""The papers' models as functions: gradients, second derivatives, transforms, modes, initial weights, a step.

A small member of every family stands for it; the largest models go through the same tests among the slow ones.
"""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

import sharpkit
from sharpkit.models import MODELS
from sharpkit.models.blocks import padding, projection
from sharpkit.models.densenet import densenet
from sharpkit.models.pyramidnet import pyramidnet
from sharpkit.models.resnet import resnet
from sharpkit.models.vgg import vgg
from sharpkit.models.vit import Attention, VisionTransformer
from sharpkit.models.wide_resnet import WideBlock, wide_resnet

SHAPE = (3, 32, 32)

SMALL = {
    "resnet": partial(resnet, 3, 10, (8, 16), 2, padding),
    "resnet, projection": partial(resnet, 3, 10, (8, 16), 2, projection),
    "wide resnet": partial(wide_resnet, 3, 10, depth=10, widen=2),
    "vgg": partial(vgg, 3, 10, (1, 1, 1, 1, 1)),
    "densenet": partial(densenet, 3, 10, (2, 2, 2), 8),
    "pyramidnet": partial(pyramidnet, 3, 10, depth=14, alpha=24),
    "vit": partial(VisionTransformer, SHAPE, 10, patch=8, width=32, depth=2, heads=4),
}
LARGEST = (
    *("resnet18", "resnet110", "resnet56-projection", "wrn28-10", "vgg19-bn"),
    *("densenet121", "pyramidnet110", "vit-s16"),
)
WHOLE = {name: partial(MODELS[name], SHAPE, 10) for name in LARGEST}


@pytest.fixture(
    params=[
        *(pytest.param(build, id=name) for name, build in SMALL.items()),
        *(pytest.param(build, id=name, marks=pytest.mark.slow) for name, build in WHOLE.items()),
    ]
)
def build(request):
    """Make a model; the weights are the same every time."""

    def make(seed=0):
        torch.manual_seed(seed)
        return request.param()

    return make


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(6, *SHAPE, generator=generator), torch.randint(0, 10, (6,), generator=generator)


def without_dropout(model):
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def settled(model, inputs):
    """The model in evaluation mode with a batch's statistics; with those of the start a deep one's outputs are huge."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(inputs)
    return model.eval()


def vector(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors])


def test_the_gradient_reaches_every_parameter(build, batch):
    model = build()
    functional.cross_entropy(model(batch[0]), batch[1]).backward()
    for name, param in model.named_parameters():
        assert param.grad is not None, name
        assert torch.isfinite(param.grad).all(), name
        assert param.grad.any(), name


def gradient(model, params, x, y, graph=False):
    """The loss's gradient at given parameters."""
    loss = functional.cross_entropy(functional_call(model, params, (x,)), y)
    return torch.autograd.grad(loss, list(params.values()), create_graph=graph)


def curvature(model, params, x, y, directions):
    """H v for every direction v, by double backward."""
    grads = gradient(model, params, x, y, graph=True)
    for direction in directions:
        along = sum((g * v).sum() for g, v in zip(grads, direction, strict=True))
        yield torch.autograd.grad(along, list(params.values()), retain_graph=True, materialize_grads=True)


def directions(params, count):
    """Random directions, entries as large as the weights'."""
    generator = torch.Generator().manual_seed(2)
    for _ in range(count):
        yield [
            torch.randn(p.shape, generator=generator, dtype=p.dtype) * p.detach().square().mean().sqrt().clamp_min(0.1)
            for p in params.values()
        ]


def test_second_derivatives_exist_and_are_symmetric(build, batch):
    model = without_dropout(build()).double()
    params = dict(model.named_parameters())
    u, v = directions(params, 2)
    along_u, along_v = (vector(h) for h in curvature(model, params, batch[0][:2].double(), batch[1][:2], [u, v]))
    assert torch.isfinite(along_u).all()
    assert along_u.norm() > 0
    scale = float(along_u.norm() * vector(v).norm())
    assert abs(float(along_u @ vector(v) - along_v @ vector(u))) < 1e-9 * scale


@pytest.mark.parametrize("name", SMALL)
def test_second_derivatives_are_those_of_the_gradient(name, batch):
    """H v by double backward against the difference of gradients at w + h v and w - h v."""
    torch.manual_seed(0)
    model = without_dropout(SMALL[name]()).double()
    x, y = batch[0].double(), batch[1]
    params = dict(model.named_parameters())
    (direction,) = directions(params, 1)
    (exact,) = (vector(h) for h in curvature(model, params, x, y, [direction]))
    h = 1e-8  # so small that hardly a rectification changes sign in between

    def moved(scale):
        with torch.no_grad():
            there = {n: p + scale * v for (n, p), v in zip(params.items(), direction, strict=True)}
        return vector(gradient(model, {n: p.requires_grad_() for n, p in there.items()}, x, y))

    assert (exact - (moved(h) - moved(-h)) / (2 * h)).norm() < 1e-3 * exact.norm()


def test_gradients_of_single_samples(build, batch):
    """`vmap` over `functional_call` in evaluation mode, where samples do not mix, against one sample at a time."""
    model = settled(build().double(), batch[0].double())
    state = {name: p.detach() for name, p in model.named_parameters()}
    buffers = dict(model.named_buffers())
    x, y = batch[0][:3].double(), batch[1][:3]

    def loss(params, one, target):
        return functional.cross_entropy(functional_call(model, (params, buffers), (one[None],)), target[None])

    every = vmap(grad(loss), (None, 0, 0))(state, x, y)
    for i in range(3):
        alone = torch.autograd.grad(functional.cross_entropy(model(x[i : i + 1]), y[i : i + 1]), model.parameters())
        for found, expected in zip(every.values(), alone, strict=True):
            assert (found[i] - expected).norm() <= 1e-6 * expected.norm() + 1e-12


def test_the_whole_model_is_one_graph(build, batch):
    model = build()
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert compiled(batch[0]).shape == (6, 10)
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(compiled(batch[0]), model(batch[0]))
    torch._dynamo.reset()


def test_a_step_of_sam(build, batch):
    model = build()
    before = copy.deepcopy(model.state_dict())
    opt = sharpkit.SharpnessAware(
        model, torch.optim.SGD(model.parameters(), lr=0.01), "sam", loss=functional.cross_entropy
    )
    report = opt.step(batch)
    assert torch.isfinite(report.loss)
    assert report.gradients == 2
    for name, param in model.named_parameters():
        assert torch.isfinite(param).all(), name
        assert not torch.equal(param, before[name]), name


def test_initial_weights_follow_the_global_seed(build):
    weights = [nn.utils.parameters_to_vector(build(seed).parameters()) for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_first_outputs_are_neither_tiny_nor_huge(build, batch):
    outputs = build()(batch[0]).detach()
    assert 0.02 < float(outputs.std()) < 20
    assert torch.isfinite(build().eval()(batch[0])).all()


def test_evaluation_changes_nothing_and_keeps_samples_apart(build, batch):
    model = build()
    before = copy.deepcopy(dict(model.named_buffers()))
    model(batch[0])
    assert all(not torch.equal(b, before[name]) for name, b in model.named_buffers())
    model.eval()
    settled = copy.deepcopy(dict(model.named_buffers()))
    with torch.no_grad():
        together, alone = model(batch[0]), model(batch[0][:1])
        assert torch.equal(together, model(batch[0]))
    torch.testing.assert_close(together[:1], alone, rtol=1e-3, atol=1e-3 * float(together.abs().max()))
    assert all(torch.equal(b, settled[name]) for name, b in model.named_buffers())


@pytest.mark.parametrize("name", [name for name in SMALL if name != "vit"])
def test_convolutions_start_with_variance_two_over_fan_out(name):
    torch.manual_seed(0)
    model = SMALL[name]()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            expected = (2 / fan_out) ** 0.5
            spread = 4 / (2 * module.weight.numel()) ** 0.5  # four standard errors of a standard deviation
            assert abs(float(module.weight.detach().std()) / expected - 1) < spread
            assert module.bias is None
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert not module.bias.any()
        elif isinstance(module, nn.Linear):
            assert not module.bias.any()


def test_the_wide_networks_of_sampas_code_start_with_variance_two_over_fan_in_and_a_head_of_zeros():
    torch.manual_seed(0)
    model = MODELS["wrn34-2"]((3, 8, 8), 10)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            expected = (2 / (module.in_channels * module.kernel_size[0] * module.kernel_size[1])) ** 0.5
            spread = 5 / (2 * module.weight.numel()) ** 0.5
            assert abs(float(module.weight.detach().std()) / expected - 1) < spread
        elif isinstance(module, nn.Linear):
            assert not module.weight.any()
            assert not module.bias.any()


def test_the_network_of_sparse_sams_code_keeps_torchs_initial_weights_and_drops_hidden_units():
    """torch's convolutions and linear layers are uniform in [-1, 1] / sqrt(fan-in), weights and biases."""
    torch.manual_seed(0)
    model = MODELS["vgg11-bn-4096"]((3, 32, 32), 10)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for module in layers:
        bound = module.weight[0].numel() ** -0.5
        assert 0.9 * bound < float(module.weight.detach().abs().max()) <= bound
        assert 0 < float(module.bias.detach().abs().max()) <= bound
    assert [m.out_features for m in layers if isinstance(m, nn.Linear)] == [4096, 4096, 10]
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.5, 0.5]


def test_the_transformer_starts_with_standard_deviation_two_hundredths():
    torch.manual_seed(0)
    model = VisionTransformer(SHAPE, 10, patch=4, width=64, depth=2, heads=4)
    for name, param in model.named_parameters():
        if "norm" in name:
            assert torch.equal(param, torch.full_like(param, float(name.endswith("weight"))))
        elif name.endswith("bias"):
            assert not param.any()
        else:
            assert abs(float(param.detach().std()) / 0.02 - 1) < 4 / (2 * param.numel()) ** 0.5


def test_attention_is_that_of_torch():
    torch.manual_seed(0)
    ours, theirs = Attention(24, 3).double(), nn.MultiheadAttention(24, 3, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.in_proj_bias.copy_(ours.qkv.bias)
        theirs.out_proj.weight.copy_(ours.out.weight)
        theirs.out_proj.bias.copy_(ours.out.bias)
    x = torch.randn(2, 7, 24, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x, x, x)[0])


def test_a_wide_block_projects_its_rectified_input():
    torch.manual_seed(0)
    block = WideBlock(3, 5, 2)
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(4, 3, 6, 6)
    expected = functional.conv2d(
        functional.batch_norm(x, None, None, training=True).relu(), block.shortcut.weight, stride=2
    )
    torch.testing.assert_close(block(x), expected)

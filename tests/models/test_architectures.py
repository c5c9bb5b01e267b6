"""Sizes, depths and shapes of the papers' models, from published numbers and closed forms; nothing is computed."""

import inspect
import re
from itertools import pairwise

import pytest
import torch
from torch import nn

from sharpkit.errors import UsageError
from sharpkit.models import MODELS
from sharpkit.models.blocks import padding
from sharpkit.models.describe import CLASSES, SHAPE, describe
from sharpkit.models.pyramidnet import pyramidnet
from sharpkit.models.resnet import BasicBlock

PAPERS = [name for name in MODELS if name not in ("mlp", "cnn")]

PUBLISHED = {
    # kuangliu/pytorch-cifar; the tables of ports that print its parameters give this number
    "resnet18": 11_173_962,
    # akamaster/pytorch_resnet_cifar10; He et al. (2016), table 6: 0.27M, 0.46M, 0.66M, 0.85M, 1.7M
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
    # osmr/imgclsmob, table of CIFAR-10 models
    "resnet20-projection": 272_474,
    "resnet56-projection": 855_770,
    "resnet110-projection": 1_730_714,
    # jvlmdr/flax-cifar, table of models
    "wrn28-2": 1_467_610,
    # osmr/imgclsmob; Zagoruyko, Komodakis (2016), table 5: 36.5M and 11.0M
    "wrn28-10": 36_479_194,
    "wrn16-8": 10_961_370,
    # LIONS-EPFL/SAMPa, model/wide_res_net.py: WideResNet(28, 2) and WideResNet(28, 10), counted when built
    "wrn34-2": 1_855_578,
    "wrn34-10": 46_160_474,
    # Mi-Peng/Sparse-Sharpness-Aware-Minimization, models/vgg.py: vgg11_bn, counted when built
    "vgg11-bn-4096": 28_149_514,
    # chenyaofo/pytorch-cifar-models (9.76M and 15.25M), less the biases of convolutions that batch norm removes
    "vgg11-bn": 9_756_426 - (64 + 128 + 2 * 256 + 4 * 512),
    "vgg16-bn": 15_253_578 - (2 * 64 + 2 * 128 + 3 * 256 + 6 * 512),
    # kuangliu/pytorch-cifar
    "densenet121": 6_956_298,
    # osmr/imgclsmob, pyramidnet110_a270_cifar10; the authors' table says 28.3M
    "pyramidnet110": 28_485_477,
}

ROUNDED = {
    "resnet20": 0.27,
    "resnet32": 0.46,
    "resnet44": 0.66,
    "resnet56": 0.85,
    "wrn28-10": 36.5,
    "wrn16-8": 11.0,
    "wrn34-10": 46.2,
}
"""Millions of parameters as the papers print them."""


def built(name, shape=SHAPE, classes=CLASSES):
    """A model without storage."""
    with torch.device("meta"):
        return MODELS[name](shape, classes)


def size(model):
    return sum(p.numel() for p in model.parameters())


# ---------------------------------------------------------------------- closed forms


def norm(width):
    return 2 * width


def thin_resnet(depth, channels, classes, projected):
    """Section 4.2 of He et al.: 6n + 2 layers, 2n for each of the widths 16, 32 and 64."""
    n = (depth - 2) // 6
    total = 9 * channels * 16 + norm(16) + 64 * classes + classes
    for i, width in enumerate((16, 32, 64)):
        first = 9 * (16 if i == 0 else width // 2) * width
        total += first + (2 * n - 1) * 9 * width**2 + 2 * n * norm(width)
        if projected and i > 0:
            total += width // 2 * width + norm(width)
    return total


def resnet18(channels, classes):
    total = 9 * channels * 64 + norm(64) + 4 * 9 * 64**2 + 4 * norm(64)
    for width in (128, 256, 512):
        total += 9 * width // 2 * width + 3 * 9 * width**2 + width // 2 * width + 5 * norm(width)
    return total + 512 * classes + classes


def wide(depth, k, channels, classes):
    n = (depth - 4) // 6
    widths = (16, 16 * k, 32 * k, 64 * k)
    total = 9 * channels * 16 + norm(64 * k) + 64 * k * classes + classes
    for before, after in pairwise(widths):
        total += 9 * before * after + (2 * n - 1) * 9 * after**2 + before * after
        total += norm(before) + (2 * n - 1) * norm(after)
    return total


def vgg(letter, channels, classes, hidden=512, biases=False):
    columns = {"A": "64 128 256 256 512 512 512 512", "D": "64 64 128 128 256 256 256 512 512 512 512 512 512"}
    columns["E"] = "64 64 128 128 256 256 256 256 512 512 512 512 512 512 512 512"
    widths = [channels, *(int(w) for w in columns[letter].split())]
    convolutions = sum(9 * a * b + norm(b) + b * biases for a, b in pairwise(widths))
    return convolutions + 512 * hidden + hidden + hidden * hidden + hidden + hidden * classes + classes


def dense(channels, classes, k=32):
    total, width = 9 * channels * 2 * k, 2 * k
    for block, layers in enumerate((6, 12, 24, 16)):
        if block:
            total += norm(width) + width * width // 2
            width //= 2
        for _ in range(layers):
            total += norm(width) + width * 4 * k + norm(4 * k) + 9 * 4 * k * k
            width += k
    return total + norm(width) + width * classes + classes


def pyramid(channels, classes):
    widths = [16 + 5 * k for k in range(55)]  # 270 channels over 54 blocks
    total = 9 * channels * 16 + norm(16) + norm(286) + 286 * classes + classes
    return total + sum(9 * a * b + 9 * b * b + norm(a) + 2 * norm(b) for a, b in pairwise(widths))


def transformer(side, patch, channels, classes, d=384, depth=12):
    block = 2 * norm(d) + d * 3 * d + 3 * d + d * d + d + 2 * 4 * d * d + 4 * d + d
    return (
        patch**2 * channels * d
        + d
        + d
        + (1 + (side // patch) ** 2) * d
        + depth * block
        + norm(d)
        + d * classes
        + classes
    )


def closed_form(name, channels, classes):
    number = int(re.search(r"\d+", name)[0])
    if name == "resnet18":
        return resnet18(channels, classes)
    if name.startswith("resnet"):
        return thin_resnet(number, channels, classes, name.endswith("projection"))
    if name.startswith("wrn"):
        return wide(number, int(name.split("-")[1]), channels, classes)
    if name == "vgg11-bn-4096":
        return vgg("A", channels, classes, 4096, biases=True)
    if name.startswith("vgg"):
        return vgg({11: "A", 16: "D", 19: "E"}[number], channels, classes)
    return {
        "densenet121": dense(channels, classes),
        "pyramidnet110": pyramid(channels, classes),
        "vit-s16": transformer(32, 4, channels, classes),
    }[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_as_many_as_published(name):
    assert size(built(name)) == PUBLISHED[name]


@pytest.mark.parametrize("name", ROUNDED)
def test_parameters_are_as_many_as_the_paper_says(name):
    digits = 2 if ROUNDED[name] < 1 else 1
    assert round(size(built(name)) / 1e6, digits) == ROUNDED[name]


@pytest.mark.parametrize("name", PAPERS)
@pytest.mark.parametrize(("channels", "classes"), [(3, 10), (3, 100), (1, 10)])
def test_parameters_are_those_of_the_closed_form(name, channels, classes):
    assert size(built(name, (channels, 32, 32), classes)) == closed_form(name, channels, classes)


def test_sizes_of_the_imagenet_forms_follow():
    """torchvision's resnet18 and densenet121, timm's vit_small_patch16_224: other stems, the same body."""
    stem = (49 - 9) * 3 * 64
    assert resnet18(3, 1000) + stem == 11_689_512
    assert dense(3, 1000) + stem + norm(64) == 7_978_856
    assert transformer(224, 16, 3, 1000) == 22_050_664


@pytest.mark.parametrize("name", PAPERS)
def test_the_docstring_states_source_and_number_of_parameters(name):
    text = " ".join(inspect.getdoc(MODELS[name]).split())
    said = describe(name)
    assert re.findall(r"([\d,]{5,}) parameters", text) == [f"{said.parameters:,}"]
    assert re.search(r"\(20\d\d\), (section \d|authors' models?/\w+)", said.source)
    assert said.what
    assert "." not in said.what


@pytest.mark.parametrize("name", MODELS)
def test_the_size_that_a_docstring_states_is_the_models(name):
    assert describe(name).parameters == size(built(name))
    assert describe(name).what


# ---------------------------------------------------------------------- depth


def is_shortcut(name):
    return "shortcut" in name


@pytest.mark.parametrize("name", [name for name in PAPERS if name != "vit-s16"])
def test_the_number_in_the_name_is_the_number_of_layers(name):
    """Wide ResNets count the convolutions, those on shortcuts too; all others the layers of the longest way."""
    layers = [(n, m) for n, m in built(name).named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    if name.startswith("wrn"):
        counted = [m for _, m in layers if isinstance(m, nn.Conv2d)]
    else:
        counted = [m for n, m in layers if not is_shortcut(n)]
    assert len(counted) == int(re.search(r"\d+", name)[0])


def test_the_transformer_is_12_deep_384_wide_and_has_6_heads():
    model = built("vit-s16")
    assert (len(model.blocks), model.positions.shape) == (12, (1, 65, 384))
    assert {block.attention.heads for block in model.blocks} == {6}


# ---------------------------------------------------------------------- shapes


def stages(name, shape):
    """The (channels, height, width) that leave every stage, and the outputs' shape."""
    model, seen = built(name, shape), []
    for part, module in model.named_children():
        if part.startswith("stage"):
            module.register_forward_hook(lambda _, __, out: seen.append(tuple(out.shape[1:])))
    outputs = model(torch.empty(2, *shape, device="meta"))
    return seen, tuple(outputs.shape)


def sides(widths, shape, first=1):
    """What stages give that halve the image one after the other, rounding up, the first of them by `first`."""
    rows, (height, width) = [], shape[1:]
    for i, channels in enumerate(widths):
        scale = first * 2**i
        rows.append((channels, -(-height // scale), -(-width // scale)))
    return rows


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (1, 28, 28), (5, 33, 17), (2, 1, 1), (3, 3, 40)])
@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("resnet18", (64, 128, 256, 512)),
        ("resnet20", (16, 32, 64)),
        ("resnet56-projection", (16, 32, 64)),
        ("wrn28-2", (32, 64, 128)),
        ("wrn16-8", (128, 256, 512)),
        ("pyramidnet110", (106, 196, 286)),
    ],
)
def test_residual_networks_take_images_of_any_size(name, widths, shape):
    assert stages(name, shape) == (sides(widths, shape), (2, 10))


@pytest.mark.parametrize(("shape", "last"), [((3, 32, 32), 4), ((1, 8, 8), 1), ((1, 28, 28), 3)])
def test_densenet_halves_three_times(shape, last):
    seen, outputs = stages("densenet121", shape)
    assert [channels for channels, _, _ in seen] == [256, 512, 1024, 1024]
    assert seen[-1][1:] == (last, last)
    assert outputs == (2, 10)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 64, 40)])
def test_vgg_halves_five_times(shape):
    seen, outputs = stages("vgg16-bn", shape)
    assert seen == [(c, shape[1] // 2**i, shape[2] // 2**i) for i, c in enumerate((64, 128, 256, 512, 512), 1)]
    assert outputs == (2, 10)


@pytest.mark.parametrize(("shape", "tokens"), [((3, 32, 32), 65), ((1, 8, 8), 5), ((1, 28, 28), 50), ((2, 4, 12), 4)])
def test_the_transformer_sees_a_token_for_every_patch(shape, tokens):
    model, seen = built("vit-s16", shape, 7), []
    model.norm.register_forward_hook(lambda _, __, out: seen.append(tuple(out.shape)))
    assert model(torch.empty(2, *shape, device="meta")).shape == (2, 7)
    assert seen == [(2, tokens, 384)]


@pytest.mark.parametrize("name", PAPERS)
@pytest.mark.parametrize("shape", [(13,), (8, 8), (1, 2, 3, 4)])
def test_inputs_that_are_no_images_are_refused(name, shape):
    with pytest.raises(UsageError, match=rf"{name} needs images \(C, H, W\).*--model mlp"):
        MODELS[name](shape, 10)


@pytest.mark.parametrize(
    ("name", "shape", "allowed"),
    [
        ("vgg11-bn", (1, 8, 8), "at least 32x32"),
        ("vgg16-bn", (1, 28, 28), "at least 32x32"),
        ("vgg19-bn", (3, 64, 31), "at least 32x32"),
        ("densenet121", (1, 8, 7), "at least 8x8"),
        ("vit-s16", (3, 30, 32), "times 4"),
        ("vit-s16", (3, 0, 4), "times 4"),
    ],
)
def test_images_of_another_size_are_refused_in_one_line(name, shape, allowed):
    with pytest.raises(UsageError, match=f"{name} needs images.*{allowed}.*{shape[1]}x{shape[2]}") as caught:
        MODELS[name](shape, 10)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------- parts


@pytest.mark.parametrize("side", [8, 7, 1])
@pytest.mark.parametrize("stride", [1, 2])
def test_option_a_takes_every_second_pixel_and_appends_zeros(side, stride):
    x = torch.randn(2, 3, side, side)
    out = padding(3, 5, stride)(x)
    assert torch.equal(out[:, :3], x[..., ::stride, ::stride])
    assert not out[:, 3:].any()
    assert out.shape[1] == 5


@pytest.mark.parametrize("name", ["resnet56", "pyramidnet110"])
def test_shortcuts_of_these_have_no_parameters(name):
    assert not [n for n, _ in built(name).named_parameters() if is_shortcut(n)]


def test_shortcuts_are_the_identity_where_the_shape_stays():
    blocks = [m for m in built("resnet56-projection").modules() if isinstance(m, BasicBlock)]
    assert [i for i, block in enumerate(blocks) if not isinstance(block.shortcut, nn.Identity)] == [9, 18]


def test_pyramid_widths_are_rounded_down():
    """alpha 48 over 9 blocks adds 5 1/3 channels a block: equation 2 of Han et al. without the repeated rounding."""
    with torch.device("meta"):
        model = pyramidnet(3, 10, depth=20, alpha=48)
    widths = [m.conv2.out_channels for m in model.modules() if hasattr(m, "conv2")]
    assert widths == [21, 26, 32, 37, 42, 48, 53, 58, 64]

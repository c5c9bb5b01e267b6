"""`--init` with checkpoints of other people's models, named as torchvision and timm name theirs."""

import argparse
from pathlib import Path

import pytest
import torch

from tests.cli.conftest import SOURCE, write

MODELS = """
from collections import OrderedDict


class Block(nn.Module):
    # Names as in torchvision.models.resnet.BasicBlock.
    def __init__(self, before, after):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.downsample = nn.Sequential(nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after))

    def forward(self, x):
        return torch.relu(self.bn1(self.conv1(x)) + self.downsample(x))


class Resnet(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(Block(4, 8))
        self.fc = nn.Linear(8, classes)

    def forward(self, x):
        return self.fc(self.layer1(torch.relu(self.bn1(self.conv1(x)))).mean((2, 3)))


class Vit(nn.Module):
    # Names as in timm's VisionTransformer.
    def __init__(self, classes):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 8))
        self.pos_embed = nn.Parameter(torch.zeros(1, 5, 8))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(1, 8, 4, 4)})
        self.blocks = nn.Sequential(nn.Sequential(OrderedDict(norm1=nn.LayerNorm(8), fc1=nn.Linear(8, 8))))
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        tokens = self.patch_embed["proj"](x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(tokens))[:, 0])


def resnet(shape, classes):
    return Resnet(classes)


def vit(shape, classes):
    return Vit(classes)
"""


@pytest.fixture
def build():
    """The models of the user's file, with weights that no seed of a run gives."""
    write(MODELS)
    names = {}
    exec(SOURCE + MODELS, names)

    def call(name, classes=10):
        torch.manual_seed(99)
        return names[name]((1, 8, 8), classes)

    return call


@pytest.fixture
def init(sharpkit):
    """Start a run of no effect (learning rate 0, hence the weights that it started from) and return its outcome."""

    def call(model, path, *more):
        words = ("--model", f"u.py:{model}", "--epochs", "1", "--limit", "60", "--threads", "1", "--wd", "0")
        return sharpkit("train", *words, "--lr", "1e-30", "--out", "r", "--overwrite", "--init", path, *more)

    return call


def ended_at():
    return torch.load("r/ckpt.pt", weights_only=True)["model"]


def same(state, names=None):
    """Whether the run's parameters are those of a state_dict; buffers of batch norm have moved."""
    ended = ended_at()
    kept = [name for name in names or state if "running" not in name and "num_batches" not in name]
    return kept and all(torch.allclose(ended[name], state[name], rtol=0, atol=1e-25) for name in kept)


def wrapped(state, how):
    prefixed = {f"module.{name}": value for name, value in state.items()}
    return {
        "plain": state,
        "torchvision": {"model": state, "optimizer": {}, "epoch": 3},
        "timm": {"state_dict": prefixed, "state_dict_ema": {n: v * 2.0 for n, v in state.items()}, "arch": "x"},
        "lightning": {"state_dict": {"model_state_dict": {f"_orig_mod.{n}": v for n, v in state.items()}}},
    }[how]


@pytest.mark.parametrize("how", ["plain", "torchvision", "timm", "lightning"])
@pytest.mark.parametrize("model", ["resnet", "vit"])
def test_theirs_are_taken(build, init, model, how):
    state = build(model).state_dict()
    torch.save(wrapped(state, how), "c.pt")
    done = init(model, "c.pt")
    assert (done.code, done.stdout) == (0, "r/ckpt.pt\n"), done.stderr
    assert same(state)
    assert ("c.pt: took state_dict, left state_dict_ema" in done.stderr) is (how == "timm")


def test_a_run_of_ones_own_by_its_directory_and_by_its_file(build, init):
    torch.save(build("vit").state_dict(), "c.pt")
    init("vit", "c.pt")
    Path("r").rename("first")
    for path in ("first", "first/ckpt.pt"):
        assert init("vit", path).code == 0
        assert same(build("vit").state_dict())


def test_a_wrong_one_is_told_by_name_and_shape(build, init, fails):
    torch.save(build("vit").state_dict(), "c.pt")
    words = ("--model", "u.py:resnet", "--epochs", "1", "--limit", "60", "--threads", "1")
    told = fails(3, "train", *words, "--init", "c.pt")
    assert "c.pt is a checkpoint of another model: 20 missing: conv1.weight (4x1x3x3), bn1.weight (4)" in told
    assert "12 unexpected: cls_token (1x1x8), pos_embed (1x5x8)" in told
    assert not Path("runs").exists()


def test_another_number_of_classes_is_loaded_in_part_when_asked(build, init, fails):
    state = build("resnet", classes=1000).state_dict()
    torch.save(state, "c.pt")
    words = ("--model", "u.py:resnet", "--epochs", "1", "--limit", "60", "--threads", "1")
    told = fails(3, "train", *words, "--init", "c.pt")
    assert "2 of another shape: fc.weight (1000x8, here 10x8), fc.bias (1000, here 10)" in told
    assert "--partial for the 18 of 20 that fit" in told
    done = init("resnet", "c.pt", "--partial")
    assert done.code == 0
    assert "c.pt: loaded 18 of 20 tensors, left out what does not fit: 2 of another shape: fc.weight" in done.stderr
    assert same(state, [name for name in state if not name.startswith("fc")])
    assert ended_at()["fc.weight"].shape == (10, 8)


def test_code_runs_only_when_it_is_trusted(build, init, fails):
    state = build("vit").state_dict()
    torch.save({"state_dict": state, "hyper_parameters": argparse.Namespace(lr=0.1)}, "c.pt")
    told = fails(3, "train", "--model", "u.py:vit", "--limit", "60", "--init", "c.pt")
    assert "to read it is to run argparse.Namespace; " in told
    assert "--trust-checkpoint" in told
    assert init("vit", "c.pt", "--trust-checkpoint").code == 0
    assert same(state)


@pytest.mark.parametrize("option", ["--partial", "--trust-checkpoint"])
def test_options_of_init_without_init(fails, option):
    assert f"{option[2:]} is set, and there is no --init" in fails(2, "train", option)

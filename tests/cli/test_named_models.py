"""Models by name on the command line: the list, a run, and what is refused in one line before a run."""

import sys
from pathlib import Path

import pytest


def test_models_are_listed_with_their_size(sharpkit):
    header, *rows = [line.split("\t") for line in sharpkit("ls", "models").stdout.splitlines()]
    assert header == ["name", "parameters", "what it is"]
    sizes = {row[0]: row[1] for row in rows}
    assert (sizes["resnet56"], sizes["wrn28-10"]) == ("853018", "36479194")


def test_a_named_model_is_trained(sharpkit):
    words = ("--epochs", "1", "--limit", "20", "-b", "9", "--threads", "1", "--opt", "sam", "-q")
    done = sharpkit("train", "--model", "resnet20", *words)
    assert (done.code, done.stdout) == (0, "runs/digits-resnet20-sam-s0/ckpt.pt\n")


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("vgg16-bn", "vgg16-bn needs images of at least 32x32 pixels, the data have 8x8"),
        ("resnet", "timm:NAME, hf:DIR or file.py:function"),
        ("torchvison:resnet50", "unknown model"),
    ],
)
def test_a_model_that_does_not_fit_or_exist_is_a_usage_error(fails, model, told):
    assert told in fails(2, "train", "--model", model)
    assert not Path("runs").exists()


@pytest.mark.parametrize("model", ["torchvision:resnet50", "timm:resnet50"])
def test_a_library_that_is_missing_is_told_with_its_remedy(fails, monkeypatch, model):
    for library in ("torchvision", "timm"):
        monkeypatch.setitem(sys.modules, library, None)
    assert "which is not installed; pip install" in fails(3, "train", "--model", model)
    assert not Path("runs").exists()


def test_a_torchvision_that_does_not_load_is_told_with_its_remedy(fails, monkeypatch, tmp_path):
    for module in [m for m in sys.modules if m.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, module)
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    told = fails(3, "train", "--model", "torchvision:resnet50")
    assert "RuntimeError: operator torchvision::nms does not exist; pip install" in told
    assert told.endswith("pip install --force-reinstall torch torchvision (both from the same index)")

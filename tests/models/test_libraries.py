"""Models of torchvision and timm: with stand-ins for the libraries, and with the libraries where they work."""

import importlib
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sharpkit.errors import InputError, UsageError
from sharpkit.models import libraries
from sharpkit.models.libraries import from_library

NMS = "operator torchvision::nms does not exist"


def works(library):
    try:
        importlib.import_module(library)
    except Exception:
        return False
    return True


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """Put a library that raises on import in the place of one that may be installed."""

    def put(name, source):
        for module in [m for m in sys.modules if m.partition(".")[0] == name]:
            monkeypatch.delitem(sys.modules, module)
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(source)
        monkeypatch.syspath_prepend(str(tmp_path))

    return put


@pytest.fixture
def torchvision(monkeypatch):
    """A stand-in with one model of classification and one detector; it notes how it is called."""
    calls = []

    def get_model(name, **options):
        calls.append((name, options))
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(options["num_classes"]))

    models = SimpleNamespace(get_model=get_model)
    models.list_models = lambda module: ["resnet50", "vgg16"] if module is models else ["fasterrcnn"]
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(models=models))
    return calls


@pytest.fixture
def timm(monkeypatch):
    """A stand-in with a model of any size and one of a fixed size."""
    calls = []

    def create_model(name, **options):
        calls.append((name, options))
        if name == "fragile":
            raise RuntimeError("no\nsuch head")
        return nn.Linear(1, 1)

    fixed = {"resnet50": False, "vit_small_patch16_224": True, "fragile": None}
    stand_in = SimpleNamespace(
        create_model=create_model,
        is_model=lambda name: name.partition(".")[0] in fixed,
        list_models=lambda: list(fixed),
        get_pretrained_cfg=lambda name: (
            None
            if fixed[name.partition(".")[0]] is None
            else SimpleNamespace(fixed_input_size=fixed[name.partition(".")[0]])
        ),
    )
    monkeypatch.setitem(sys.modules, "timm", stand_in)
    return calls


@pytest.mark.parametrize("name", ["resnet20", "torchvision", "timm", "u.py:f", "keras:resnet50", ":resnet50"])
def test_other_names_are_of_no_library(name):
    assert from_library(name) is None


def test_torchvision_is_asked_for_an_untrained_model(torchvision):
    from_library("torchvision:resnet50")((3, 64, 64), 7)
    assert torchvision == [("resnet50", {"weights": None, "num_classes": 7})]


@pytest.mark.parametrize(("name", "hint"), [("resnet5", "torchvision:resnet50"), ("fasterrcnn", "documentation")])
def test_a_name_that_torchvision_does_not_have(torchvision, name, hint):
    with pytest.raises(UsageError, match=rf"no classification model '{name}'.*{hint}"):
        from_library(f"torchvision:{name}")((3, 64, 64), 7)
    assert not torchvision


@pytest.mark.parametrize("shape", [(1, 8, 8), (64,)])
def test_torchvision_needs_three_channels(torchvision, shape):
    with pytest.raises(UsageError, match=r"3 channels \(3, H, W\)"):
        from_library("torchvision:resnet50")(shape, 7)
    assert not torchvision


def test_timm_is_asked_for_the_channels_and_where_it_is_fixed_the_size(timm):
    from_library("timm:resnet50.a1_in1k")((1, 8, 8), 7)
    from_library("timm:vit_small_patch16_224")((3, 32, 48), 10)
    assert timm == [
        ("resnet50.a1_in1k", {"pretrained": False, "num_classes": 7, "in_chans": 1}),
        (
            "vit_small_patch16_224",
            {"pretrained": False, "num_classes": 10, "in_chans": 3, "img_size": (32, 48)},
        ),
    ]


def test_a_name_that_timm_does_not_have(timm):
    with pytest.raises(UsageError, match=r"no classification model 'resnet5'.*timm:resnet50"):
        from_library("timm:resnet5")((3, 8, 8), 7)
    with pytest.raises(UsageError, match=r"needs images \(C, H, W\)"):
        from_library("timm:resnet50")((64,), 7)


@pytest.mark.usefixtures("timm")
def test_a_model_that_cannot_be_built_is_told_in_one_line():
    with pytest.raises(
        InputError, match=r"timm:fragile cannot be built for images \(3, 8, 8\): RuntimeError: no such head"
    ):
        from_library("timm:fragile")((3, 8, 8), 7)


TOGETHER = "pip install --force-reinstall torch torchvision (both from the same index)"


def test_a_missing_torchvision_is_to_come_with_its_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(InputError) as caught:
        from_library("torchvision:resnet50")((3, 8, 8), 7)
    assert caught.value.message == "the model torchvision:resnet50 needs torchvision, which is not installed"
    assert caught.value.hint == TOGETHER
    assert caught.value.exit_code == 3


def test_a_torchvision_built_for_another_torch(broken):
    broken("torchvision", f"raise RuntimeError({NMS!r})\n")
    with pytest.raises(InputError) as caught:
        from_library("torchvision:resnet50")((3, 8, 8), 7)
    assert caught.value.message == (
        f"the model torchvision:resnet50 needs torchvision, which cannot be imported: RuntimeError: {NMS}"
    )
    assert caught.value.hint == TOGETHER


def test_a_missing_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        InputError, match=r'timm:resnet50 needs timm, which is not installed.*pip install "sharpkit\[timm\]"'
    ):
        from_library("timm:resnet50")((3, 8, 8), 7)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            f"raise RuntimeError({NMS!r})\n",
            "needs timm, which cannot be imported: RuntimeError: operator torchvision::nms",
        ),
        (
            "raise ModuleNotFoundError(\"No module named 'torchvision'\", name='torchvision')\n",
            "needs torchvision, which is not",
        ),
    ],
)
def test_a_timm_whose_torchvision_does_not_work_needs_another_torchvision(broken, source, message):
    broken("timm", source)
    with pytest.raises(InputError, match=rf"{message}.*pip install.* torchvision"):
        from_library("timm:resnet50")((3, 8, 8), 7)


def test_no_library_is_imported_before_it_is_asked_for():
    code = (
        "import sys\nfrom sharpkit.models import MODELS, libraries\n"
        "MODELS['resnet20']((3, 8, 8), 10)\n"
        "print([m for m in ('torchvision', 'timm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.skipif(not works("torchvision"), reason="torchvision cannot be imported")
def test_the_real_torchvision():
    model = from_library("torchvision:resnet18")((3, 32, 32), 10)
    assert sum(p.numel() for p in model.parameters()) == 11_689_512 - 990 * 513
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    with pytest.raises(UsageError, match="torchvision:resnet18"):
        from_library("torchvision:resnet181")((3, 32, 32), 10)
    with pytest.raises(UsageError, match="no classification model"):
        from_library("torchvision:fasterrcnn_resnet50_fpn")((3, 32, 32), 10)


@pytest.mark.skipif(not works("timm"), reason="timm cannot be imported")
@pytest.mark.parametrize(
    "name", ["resnet18", "resnet18.a1_in1k", "vit_tiny_patch16_224", "mixer_s16_224", "convnext_atto"]
)
def test_the_real_timm(name):
    model = from_library(f"timm:{name}")((1, 32, 48), 7)
    assert model(torch.randn(2, 1, 32, 48)).shape == (2, 7)
    with pytest.raises(UsageError, match=r"timm has no classification model"):
        from_library("timm:hf-hub:nowhere/nothing")((3, 32, 32), 10)
    assert libraries.timm.__doc__

"""Base optimizers by name and by class, with the hyperparameters that were asked for."""

import sys

import pytest
import torch

from sharpkit.engine.bases import build_base, default_lr
from sharpkit.engine.config import TrainConfig
from sharpkit.errors import InputError, SharpkitError, UsageError


def built(base, **options):
    model = torch.nn.Linear(3, 2)
    return build_base(TrainConfig(base=base, **options), model.parameters())


@pytest.mark.parametrize(
    ("base", "kind", "lr"),
    [
        ("sgd", torch.optim.SGD, 0.1),
        ("adam", torch.optim.Adam, 1e-3),
        ("adamw", torch.optim.AdamW, 1e-3),
        ("torch.optim:NAdam", torch.optim.NAdam, 1e-3),
        ("torch.optim:RMSprop", torch.optim.RMSprop, 1e-3),
    ],
)
def test_class_rate_and_weight_decay(base, kind, lr):
    assert default_lr(base) == lr
    plain, chosen = built(base), built(base, lr=0.25, wd=0.125)
    assert type(plain) is type(chosen) is kind
    assert (plain.param_groups[0]["lr"], plain.param_groups[0]["weight_decay"]) == (lr, 5e-4)
    assert (chosen.param_groups[0]["lr"], chosen.param_groups[0]["weight_decay"]) == (0.25, 0.125)
    assert sum(p.numel() for p in chosen.param_groups[0]["params"]) == 8


@pytest.mark.parametrize("base", ["sgd", "torch.optim:SGD", "torch.optim:RMSprop"])
def test_momentum_goes_to_classes_that_have_it(base):
    assert built(base, momentum=0.75).param_groups[0]["momentum"] == 0.75


def test_nesterov():
    assert built("sgd", nesterov=True).param_groups[0]["nesterov"] is True
    assert built("sgd").param_groups[0]["nesterov"] is False


@pytest.mark.parametrize("base", ["adma", "SGD", ""])
def test_unknown_names_are_refused_with_the_allowed_ones(base):
    with pytest.raises(UsageError, match=r"unknown base optimizer .*allowed: sgd, adam, adamw, or module:Class"):
        built(base)


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("no_such_module:X", r"cannot import no_such_module.*module:Class"),
        ("torch.optim:Nadam", r"torch\.optim has no function 'Nadam' \(did you mean 'NAdam'"),
        ("torch:optim", r"torch has no function 'optim'"),
        ("torch.nn:Linear", r"torch\.nn:Linear could not be built"),
        ("torch.optim.lr_scheduler:StepLR", r"could not be built"),
        ("builtins:list", r"builtins:list is no torch\.optim\.Optimizer"),
        ("torch.optim:Optimizer", r"could not be built"),
        ("torch.optim:Muon", r"could not be built"),
        ("builtins:dict", r"builtins:dict"),
        ("builtins:type", r"builtins:type"),
    ],
)
def test_what_is_no_optimizer_is_refused(base, message):
    with pytest.raises(InputError, match=message):
        built(base)


@pytest.mark.parametrize("base", [":X", ".relative:X", "torch..optim:SGD"])
def test_what_is_no_module_name_is_refused(base):
    with pytest.raises(SharpkitError, match="module:Class"):
        built(base)


@pytest.mark.parametrize("raised", ["ValueError('no')", "SystemExit(0)", "ImportError('no')"])
def test_a_module_that_fails_on_import_is_refused(tmp_path, monkeypatch, raised):
    (tmp_path / "broken_base.py").write_text(f"raise {raised}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="broken_base"):
        built("broken_base:X")


def test_a_class_in_the_working_directory_is_found(tmp_path, monkeypatch):
    """The installed program does not have the working directory on its path, `python -m` has."""
    (tmp_path / "own_base.py").write_text("import torch\n\n\nclass Own(torch.optim.SGD):\n    pass\n")
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    assert type(built("own_base:Own")).__name__ == "Own"

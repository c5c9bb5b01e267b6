"""Names of other people's state_dicts: torch's own strict loading of what they were made from is the oracle."""

import copy
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from sharpkit.engine.weights import load_state
from sharpkit.errors import InputError


class Tied(nn.Module):
    """A word model that reads and writes with one matrix."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.norm = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight


class Renamed(nn.Linear):
    """Reads what its earlier version called kernel."""

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        if prefix + "kernel" in state_dict:
            state_dict[prefix + "weight"] = state_dict.pop(prefix + "kernel")
        super()._load_from_state_dict(state_dict, prefix, *rest)


def made(build, seed=0):
    """A model none of whose numbers is its initial one."""
    torch.manual_seed(seed)
    model = build()
    for value in model.state_dict().values():
        value.copy_(torch.randn(value.shape) if value.is_floating_point() else torch.tensor(seed + 5))
    return model


def small():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def same(model, other):
    """Whether the state_dicts are equal bit for bit."""
    a, b = model.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def loaded(build, stored, **options):
    """A model with other numbers that took the state_dict, and what was noted."""
    model, notes = made(build, 1), []
    load_state(model, stored, "c.pt", note=notes.append, **options)
    return model, notes


def under(prefix, state):
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize("build", [small, Tied])
@pytest.mark.parametrize(
    "prefix", ["", "model.", "net.model.", "module.model.", "model.module.", "_orig_mod.model.", "backbone.0."]
)
def test_a_prefix_of_all_names_is_taken_off_and_told(build, prefix):
    theirs = made(build)
    model, notes = loaded(build, under(prefix, theirs.state_dict()))
    assert same(model, theirs)
    shown = prefix.replace("_orig_mod.", "")
    shown = shown.removeprefix("module.")
    assert notes == ([f"c.pt: took the prefix {shown!r} off every name"] if shown else [])


def test_a_models_own_prefix_is_not_taken_off():
    build = lambda: nn.ModuleDict({"model": small()})  # noqa: E731
    theirs = made(build)
    model, notes = loaded(build, theirs.state_dict())
    assert same(model, theirs)
    assert notes == []
    model, notes = loaded(build, under("model.", theirs.state_dict()))
    assert same(model, theirs)
    assert notes == ["c.pt: took the prefix 'model.' off every name"]


@pytest.mark.parametrize("prefix", ["", "model."])
def test_batch_norm_before_it_counted(prefix):
    """Torch's strict loading takes it too, and leaves the counter at 0 in a new model."""
    theirs = made(small)
    stored = OrderedDict((k, v) for k, v in theirs.state_dict().items() if "num_batches" not in k)
    oracle = small()
    oracle.load_state_dict(stored, strict=True)
    model, notes = loaded(small, under(prefix, stored))
    assert same(model, oracle)
    assert notes[-1] == "c.pt: it has no num_batches_tracked, as before torch 0.4.1: 1 set to 0"
    del stored["1.running_mean"]
    with pytest.raises(InputError, match=r"2 missing: 1\.running_mean \(4\), 1\.num_batches_tracked"):
        loaded(small, stored)


@pytest.mark.parametrize("left_out", ["embed.weight", "head.weight"])
def test_a_tied_weight_stored_once(left_out):
    theirs = made(Tied)
    stored = {k: v for k, v in theirs.state_dict().items() if k != left_out}
    model, notes = loaded(Tied, stored)
    assert same(model, theirs)
    assert model.head.weight is model.embed.weight
    kept = ({"embed.weight", "head.weight"} - {left_out}).pop()
    assert notes == [f"c.pt: {left_out} is {kept}, which it is tied to"]


def test_tied_weights_that_differ_in_the_file_are_told():
    stored = made(Tied).state_dict()
    stored["head.weight"] = stored["embed.weight"] + 1
    oracle = made(Tied, 1)
    oracle.load_state_dict(stored, strict=True)
    model, notes = loaded(Tied, stored)
    assert same(model, oracle)
    assert notes == ["c.pt: embed.weight and head.weight are tied here and differ there, the last one counts"]


def test_weight_norm_as_earlier_versions_of_torch_saved_it():
    build = lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 4)))  # noqa: E731
    theirs = made(build)
    state = theirs.state_dict()
    stored = {
        "0.weight_g": state["0.parametrizations.weight.original0"],
        "0.weight_v": state["0.parametrizations.weight.original1"],
        "0.bias": state["0.bias"],
    }
    oracle = build()
    oracle.load_state_dict(dict(stored), strict=True)
    for prefix in ("", "model."):
        model, _ = loaded(build, under(prefix, stored))
        assert same(model, oracle)


def test_names_that_the_model_itself_renames():
    theirs = made(lambda: Renamed(3, 2))
    stored = {"kernel": theirs.weight.detach(), "bias": theirs.bias.detach()}
    for prefix in ("", "old."):
        model, _ = loaded(lambda: Renamed(3, 2), under(prefix, stored))
        assert same(model, theirs)


def test_values_of_another_type_are_told():
    stored = {k: v.half() if v.is_floating_point() else v for k, v in made(small).state_dict().items()}
    oracle = small()
    oracle.load_state_dict(stored, strict=True)
    model, notes = loaded(small, stored)
    assert same(model, oracle)
    assert notes == ["c.pt: 8 tensors are float16 there and float32 here"]


def lightning():
    """A module whose loss and metric have tensors of their own."""
    return under("model.", made(small).state_dict()) | {
        "criterion.weight": torch.ones(2),
        "accuracy.seen": torch.ones(()),
    }


def test_what_lies_beside_the_model_is_left_out_only_when_asked():
    with pytest.raises(InputError) as raised:
        loaded(small, lightning())
    told = "c.pt holds this model under 'model.', and 2 tensors beside it: criterion.weight, accuracy.seen"
    assert str(raised.value) == f"{told} (--partial leaves those out)"
    model, notes = loaded(small, lightning(), partial=True)
    assert same(model, made(small))
    assert notes[0] == "c.pt: took the prefix 'model.' off every name that has it"
    assert notes[1].endswith("left out what does not fit: 2 without the prefix: criterion.weight, accuracy.seen")


@pytest.mark.parametrize("partial", [True, False])
def test_of_a_teacher_and_a_student_none_is_guessed(partial):
    stored = under("student.", made(small).state_dict()) | under("teacher.", made(small, 3).state_dict())
    with pytest.raises(InputError) as raised:
        loaded(small, stored, partial=partial)
    assert str(raised.value) == "c.pt holds this model 2 times, under 'student.', 'teacher.' (save one of them alone)"


def test_another_model_under_a_prefix_is_told_by_the_names_here():
    stored = under(
        "model.", made(lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 9))).state_dict()
    )
    with pytest.raises(InputError, match=r"2 of another shape: 2\.weight \(9x4, here 2x4\).*--partial for the 7 of 9"):
        loaded(small, stored)


def test_what_cannot_be_copied_is_still_compared_by_name():
    class Uncopied(nn.Linear):
        def __deepcopy__(self, memo):
            raise TypeError("not me")

    theirs = made(lambda: nn.Linear(3, 2))
    model, _ = loaded(lambda: Uncopied(3, 2), under("model.", theirs.state_dict()))
    assert torch.equal(model.weight, theirs.weight)
    with pytest.raises(InputError, match=r"1 missing: bias"):
        loaded(lambda: Uncopied(3, 2), {"weight": theirs.weight})


def test_a_refused_file_leaves_the_model_alone():
    model = made(small, 1)
    before = copy.deepcopy(model)
    with pytest.raises(InputError):
        load_state(model, {"0.weight": torch.zeros(4, 3)}, "c.pt")
    assert same(model, before)

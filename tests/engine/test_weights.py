"""Weights from everywhere: under which key, by which names, from which kind of file; and what does not fit."""

import argparse
import json
import struct
import sys
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from sharpkit.engine.checkpoint import save
from sharpkit.engine.weights import WRAPPERS, load_state, load_weights, read_weights, state_of
from sharpkit.errors import InputError
from tests.core.support import bits


def linear(value, inputs=3, outputs=2):
    model = nn.Linear(inputs, outputs)
    nn.init.constant_(model.weight, value)
    nn.init.constant_(model.bias, value)
    return model


STATE = linear(2.0).state_dict()


def loaded(path, model=None, **options):
    """The model, and what it was told, after it took the weights of a file."""
    told = []
    model = model or linear(1.0)
    load_weights(model, path, note=told.append, **options)
    return bits(dict(model.state_dict())), told


@pytest.mark.parametrize("plain", [True, False])
def test_of_a_file_and_of_a_run_directory(tmp_path, plain):
    if plain:
        torch.save(STATE, tmp_path / "ckpt.pt")
    else:
        save(tmp_path / "ckpt.pt", {"model": STATE})
    for path in (tmp_path, tmp_path / "ckpt.pt"):
        assert loaded(path) == (bits(dict(STATE)), [])
        assert bits(read_weights(path)) == bits(dict(STATE))


@pytest.mark.parametrize("outer", WRAPPERS)
@pytest.mark.parametrize("inner", [None, *WRAPPERS])
def test_under_a_key_and_under_two(tmp_path, outer, inner):
    held = STATE if inner is None else {inner: STATE, "decay": 0.9}
    torch.save({"epoch": 3, "step": torch.tensor(7), outer: held, "optimizer": {"state": {}}}, tmp_path / "c.pt")
    assert loaded(tmp_path / "c.pt") == (bits(dict(STATE)), [])


def test_of_several_the_trained_weights_come_before_their_average_and_the_rest_is_told(tmp_path):
    for i, key in enumerate(WRAPPERS[:-1]):
        document = {other: linear(float(j)).state_dict() for j, other in enumerate(WRAPPERS) if j >= i}
        torch.save(dict(reversed(document.items())), tmp_path / "c.pt")
        state, told = loaded(tmp_path / "c.pt")
        assert state == bits(dict(linear(float(i)).state_dict()))
        assert told == [f"{tmp_path / 'c.pt'}: took {key}, left {', '.join(WRAPPERS[i + 1 :])}"]
    assert WRAPPERS.index("model") < WRAPPERS.index("ema_state_dict") < WRAPPERS.index("ema")


def test_a_third_level_is_not_searched(tmp_path):
    torch.save({"state_dict": {"model": {"net": STATE}}}, tmp_path / "c.pt")
    with pytest.raises(InputError, match=r"holds no weights by name, its keys are net \(give a state_dict, alone or"):
        read_weights(tmp_path / "c.pt")


@pytest.mark.parametrize("document", [{}, {"epoch": 3}, {"model": {}}, {"ema": {"shadow_params": [torch.ones(2)]}}])
def test_a_file_without_weights(tmp_path, document):
    torch.save(document, tmp_path / "c.pt")
    with pytest.raises(InputError, match="holds no weights by name"):
        read_weights(tmp_path / "c.pt")


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module."]
)
def test_prefixes_of_wrappers(tmp_path, prefix):
    torch.save({prefix + name: value for name, value in STATE.items()}, tmp_path / "c.pt")
    assert loaded(tmp_path / "c.pt") == (bits(dict(STATE)), [])
    assert list(read_weights(tmp_path / "c.pt")) == list(STATE)


def test_a_model_whose_part_is_called_module_keeps_the_name(tmp_path):
    class Holder(nn.Module):
        def __init__(self, value):
            super().__init__()
            self.module = linear(value)

    torch.save(Holder(2.0).state_dict(), tmp_path / "c.pt")
    assert loaded(tmp_path / "c.pt", Holder(1.0))[0] == bits(dict(Holder(2.0).state_dict()))
    save(tmp_path / "ckpt.pt", {"model": state_of(Holder(2.0))})
    assert list(read_weights(tmp_path)) == list(Holder(1.0).state_dict())
    assert loaded(tmp_path, Holder(1.0))[0] == bits(dict(Holder(2.0).state_dict()))


def test_a_part_that_is_compiled_has_its_plain_name(tmp_path):
    def compiling(part):
        return torch.compile(part, backend="eager")

    def net(value, wrap=lambda part: part):
        return nn.Sequential(OrderedDict(first=wrap(linear(value)), last=linear(value)))

    compiled = net(2.0, compiling)
    assert "first._orig_mod.weight" in compiled.state_dict()
    assert list(state_of(compiled)) == list(net(1.0).state_dict())
    for state, model in ((compiled.state_dict(), net(1.0)), (net(2.0).state_dict(), net(1.0, compiling))):
        torch.save(state, tmp_path / "c.pt")
        load_weights(model, tmp_path / "c.pt")
        assert bits(state_of(model)) == bits(dict(net(2.0).state_dict()))


def test_a_moving_average_of_torch(tmp_path):
    torch.save({"ema": AveragedModel(linear(2.0)).state_dict()}, tmp_path / "c.pt")
    assert loaded(tmp_path / "c.pt") == (bits(dict(STATE)), [])


def test_half_precision_is_widened(tmp_path):
    torch.save(linear(0.5).half().state_dict(), tmp_path / "c.pt")
    assert loaded(tmp_path / "c.pt")[0] == bits(dict(linear(0.5).state_dict()))


def test_code_that_is_trusted_gives_its_weights(tmp_path):
    torch.save({"args": argparse.Namespace(lr=0.1), "model": STATE}, tmp_path / "c.pt")
    with pytest.raises(InputError, match=r"to read it is to run argparse\.Namespace"):
        read_weights(tmp_path / "c.pt")
    assert loaded(tmp_path / "c.pt", trust=True) == (bits(dict(STATE)), [])
    torch.save({"model": linear(2.0), "ema": linear(3.0)}, tmp_path / "c.pt")
    assert loaded(tmp_path / "c.pt", trust=True)[0] == bits(dict(STATE))


# ---------------------------------------------------------------------- safetensors


def safetensors(path, state):
    """Write the format by hand: the length of a header, the header, the numbers."""
    header, content = {}, b""
    for name, value in state.items():
        data = value.numpy().tobytes()
        header[name] = {
            "dtype": "F32",
            "shape": list(value.shape),
            "data_offsets": [len(content), len(content) + len(data)],
        }
        content += data
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content)


def test_safetensors(tmp_path):
    pytest.importorskip("safetensors")
    safetensors(tmp_path / "c.safetensors", {f"module.{name}": value for name, value in STATE.items()})
    assert loaded(tmp_path / "c.safetensors") == (bits(dict(STATE)), [])


def test_safetensors_that_are_damaged(tmp_path):
    pytest.importorskip("safetensors")
    safetensors(tmp_path / "c.safetensors", STATE)
    whole = (tmp_path / "c.safetensors").read_bytes()
    for part in (b"", whole[:4], whole[:-1], b"x" * 100):
        (tmp_path / "c.safetensors").write_bytes(part)
        with pytest.raises(InputError, match=r"c\.safetensors is no readable checkpoint: \S") as told:
            read_weights(tmp_path / "c.safetensors")
        assert "\n" not in str(told.value)


def test_safetensors_without_the_library_or_the_file(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="does not exist"):
        read_weights(tmp_path / "c.safetensors")
    safetensors(tmp_path / "c.safetensors", STATE)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(InputError, match=r"needs safetensors.*pip install safetensors"):
        read_weights(tmp_path / "c.safetensors")


# ---------------------------------------------------------------------- what does not fit


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (linear(2.0, 4).state_dict(), r"1 of another shape: weight \(2x4, here 2x3\)"),
        ({"weight": torch.zeros(2, 3)}, r"1 missing: bias \(2\)"),
        ({**STATE, "extra": torch.zeros(())}, r"1 unexpected: extra \(scalar\)"),
        ({"weight": 3, "bias": torch.zeros(2)}, r"1 missing: weight \(2x3\)"),
        (
            {"bias": torch.zeros(3), **{f"layer{i}": torch.zeros(1) for i in range(20)}},
            r"1 missing: weight \(2x3\); 20 unexpected: "
            + ", ".join(rf"layer{i} \(1\)" for i in range(8))
            + r", \.\.\.; 1 of another shape: bias \(3, here 2\)",
        ),
    ],
    ids=range(5),
)
def test_another_models_weights_are_refused_with_names_and_none_is_loaded(tmp_path, stored, message):
    torch.save(stored, tmp_path / "c.pt")
    model = linear(1.0)
    with pytest.raises(
        InputError, match=rf"c\.pt is a checkpoint of another model: {message} \(give the --model"
    ) as told:
        load_weights(model, tmp_path / "c.pt")
    assert ("--partial" in told.value.hint) is any(
        getattr(stored.get(name), "shape", None) == value.shape for name, value in STATE.items()
    )
    assert bits(dict(model.state_dict())) == bits(dict(linear(1.0).state_dict()))


def test_partial_loads_what_fits_and_tells_the_rest(tmp_path):
    torch.save({"weight": torch.zeros(2, 4), "bias": torch.full((2,), 7.0), "extra": torch.ones(1)}, tmp_path / "c.pt")
    model, told = linear(1.0), []
    load_weights(model, tmp_path / "c.pt", partial=True, note=told.append)
    assert (model.weight.unique().item(), model.bias.unique().item()) == (1.0, 7.0)
    assert told == [
        f"{tmp_path / 'c.pt'}: loaded 1 of 2 tensors, left out what does not fit: 1 unexpected: extra (1); "
        "1 of another shape: weight (2x4, here 2x3)"
    ]
    assert loaded(tmp_path / "c.pt", linear(1.0, 4), partial=True)[1][0].count("loaded 2 of 2 tensors") == 1


def test_partial_with_nothing_that_fits_is_refused(tmp_path):
    torch.save({"other": torch.ones(1)}, tmp_path / "c.pt")
    with pytest.raises(InputError, match="another model") as told:
        load_weights(linear(1.0), tmp_path / "c.pt", partial=True)
    assert "--partial" not in told.value.hint


@pytest.mark.parametrize("partial", [True, False])
def test_numbers_that_are_not_finite_leave_the_model_alone(tmp_path, partial):
    torch.save({"weight": torch.full((2, 3), float("nan")), "bias": torch.zeros(2)}, tmp_path / "c.pt")
    model = linear(1.0)
    with pytest.raises(InputError, match="weights that are not finite"):
        load_weights(model, tmp_path / "c.pt", partial=partial)
    assert bits(dict(model.state_dict())) == bits(dict(linear(1.0).state_dict()))


def test_a_modules_extra_state_is_restored_and_may_be_missing(tmp_path):
    class Counting(nn.Linear):
        count = 0

        def get_extra_state(self):
            return {"count": self.count}

        def set_extra_state(self, state):
            self.count = state["count"]

    first, again = Counting(3, 2), Counting(3, 2)
    first.count = 5
    load_state(again, state_of(first), "here")
    assert again.count == 5
    torch.save(STATE, tmp_path / "c.pt")
    load_weights(again, tmp_path / "c.pt")
    assert again.weight.unique().item() == 2.0

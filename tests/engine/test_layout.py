"""Which memory format images get, who decides it, and where it is told."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpkit.core.task import Batch, Supervised
from sharpkit.engine import layout
from sharpkit.engine.layout import pick_layout
from sharpkit.engine.session import build
from sharpkit.errors import UsageError
from tests.core.support import bits
from tests.engine.support import run, small


def network(channels=3):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )


def images(side=16, count=40):
    return Batch(torch.randn(count, 3, side, side), torch.arange(count) % 2)


def picked(wanted="auto", model=None, batch=None, precision="off", **options):
    model = model or network()
    chosen, told = pick_layout(
        wanted, model, Supervised(model, F.cross_entropy), batch or images(), precision, **options
    )
    is_last = [p.is_contiguous(memory_format=torch.channels_last) for p in model.parameters() if p.dim() == 4]
    assert not is_last or is_last == [chosen == "on"]
    return chosen, told


@pytest.fixture
def clock(monkeypatch):
    """Let the formats take certain times, usual and with the channels last, and count the measurements."""

    def call(usual, last):
        taken = []
        monkeypatch.setattr(layout, "_measured", lambda *arguments: taken.append(arguments) or (usual, last))
        return taken

    return call


@pytest.mark.parametrize(("last", "chosen"), [(0.084, "on"), (0.086, "off"), (0.2, "off")])
def test_the_channels_are_last_where_that_is_clearly_faster(clock, last, chosen):
    taken = clock(0.1, last)
    told = [f"channels-last: {chosen} (measured {1e3 * last:.1f} ms with, 100.0 ms without)"]
    assert picked() == (chosen, told)
    assert taken[0][2].size == 32


@pytest.mark.parametrize(
    ("wanted", "options", "told"),
    [
        ("on", {}, ["channels-last: on, as given"]),
        ("off", {}, []),
        ("auto", {"deterministic": True}, []),
        ("auto", {"batch": images(15)}, []),
        ("auto", {"batch": Batch(torch.randn(4, 3), torch.zeros(4)), "model": nn.Linear(3, 2)}, []),
        ("auto", {"model": nn.Sequential(nn.Flatten(), nn.Linear(768, 2))}, []),
    ],
)
def test_where_nothing_is_measured(clock, wanted, options, told):
    taken = clock(1.0, 0.1)
    assert picked(wanted, **options) == ("on" if wanted == "on" else "off", told)
    assert not taken


@pytest.mark.parametrize(("precision", "chosen"), [("off", "off"), ("bf16", "on"), ("fp16", "on")])
def test_on_a_gpu_the_precision_decides(clock, precision, chosen):
    taken, model = clock(1.0, 0.1), network()
    inputs = SimpleNamespace(dim=lambda: 4, device=torch.device("cuda"))
    answer, told = pick_layout("auto", model, None, SimpleNamespace(inputs=inputs), precision)
    assert (answer, bool(told), taken) == (chosen, chosen == "on", [])


@pytest.mark.parametrize("precision", ["off", "bf16"])
def test_a_measurement_leaves_the_model_as_it_was(precision):
    model, batch = network(), images()
    before, random = bits(dict(model.state_dict())), torch.get_rng_state()
    times = layout._measured(model, Supervised(model, F.cross_entropy), batch, precision)
    assert min(times) > 0
    assert bits(dict(model.state_dict())) == before
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None and p.is_contiguous() for p in model.parameters())


def test_a_model_without_convolutions_is_refused():
    with pytest.raises(UsageError, match="channels-last is on, and the model has no convolution of images"):
        picked("on", nn.Linear(3, 2), Batch(torch.randn(4, 3), torch.zeros(4)))


# ---------------------------------------------------------------------- in a run


def test_what_was_chosen_is_in_the_configuration_and_in_a_note(tmp_path):
    for wanted, chosen in (("auto", "off"), ("on", "on"), ("off", "off")):
        session = build(small(tmp_path, channels_last=wanted))
        assert session.config.channels_last == chosen
        assert ("channels-last: on, as given" in session.notes) is (chosen == "on")


def test_the_format_changes_rounding_only_and_the_checkpoint_serves_both(tmp_path):
    ends = {}
    for wanted in ("off", "on"):
        run(small(tmp_path, channels_last=wanted, epochs=1), tmp_path / wanted)
        ends[wanted] = torch.load(tmp_path / wanted / "ckpt.pt", weights_only=True)["model"]
        run(small(tmp_path, channels_last="off", init=str(tmp_path / wanted)), tmp_path / f"after-{wanted}")
    torch.testing.assert_close(ends["on"], ends["off"], rtol=1e-3, atol=1e-4)

"""Which memory format images get, who decides it, and where it is told."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpkit.core import fisher
from sharpkit.core.task import Batch, Supervised
from sharpkit.engine import layout
from sharpkit.engine.layout import Formatted, formed, pick_layout
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
    model = network() if model is None else model
    batch = batch or images()
    task, chosen, told = pick_layout(wanted, Supervised(model, F.cross_entropy), batch, precision, **options)
    assert task.outputs(batch).shape == (batch.size, 2)
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
    assert taken[0][1].size == 32


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
    inputs = SimpleNamespace(dim=lambda: 4, device=torch.device("cuda"), shape=(1, 3, 32, 32))
    task, batch = Supervised(model, F.cross_entropy), SimpleNamespace(inputs=inputs)
    _, answer, told = pick_layout("auto", task, batch, precision)
    assert (answer, bool(told), taken) == (chosen, chosen == "on", [])


@pytest.mark.parametrize("precision", ["off", "bf16"])
def test_a_measurement_leaves_the_model_as_it_was(precision):
    model, batch = network(), images()
    before, random = bits(dict(model.state_dict())), torch.get_rng_state()
    times = layout._measured(Supervised(model, F.cross_entropy), batch, precision)
    assert min(times) > 0
    assert bits(dict(model.state_dict())) == before
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None for p in model.parameters())


def test_a_model_without_convolutions_is_refused():
    with pytest.raises(UsageError, match="channels-last is on, and the model has no convolution of images"):
        picked("on", nn.Linear(3, 2), Batch(torch.randn(4, 3), torch.zeros(4)))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_the_model_sees_images_in_one_format_whatever_augmentation_leaves(channels, form):
    """Torch takes an image of one channel for either format, and a convolution goes by its strides."""
    usual = torch.randn(2, channels, 5, 4)
    for given in (usual, usual.movedim(1, -1).contiguous().movedim(-1, 1), usual[:1], usual.expand(2, -1, -1, -1)):
        seen = formed(given, form)
        assert torch.equal(seen, given)
        assert seen.stride()[1:] == torch.empty(given.shape, memory_format=form).stride()[1:]
        assert formed(seen, form) is seen


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_gradients_of_single_samples_can_be_taken_at_once(form):
    """The fast ways must not fail in either format, or recipes with a Fisher mask would go sample by sample."""
    model, batch = network().double().to(memory_format=form).eval(), images(count=5)
    task, batch = Formatted(model, F.cross_entropy, form), Batch(batch.inputs.double(), batch.targets)
    params = list(model.parameters())
    expected = fisher._one_by_one(model, task, params, batch)
    with torch.no_grad():
        for way in (fisher.layerwise, fisher._vectorised):
            torch.testing.assert_close(way(model, task, params, batch), expected)


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

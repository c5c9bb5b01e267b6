"""The machine a run uses."""

import pytest
import torch
from torch import nn

from sharpkit.core.task import Batch, Supervised
from sharpkit.engine import runtime

BATCH = Batch(torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def task():
    return Supervised(nn.Linear(3, 2), nn.functional.cross_entropy)


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [({1: 0.1, 2: 0.05}, 2), ({1: 0.1, 2: 0.09}, 1), ({1: 0.1, 2: 0.2}, 1), ({2: 2.5}, 2)],
    ids=["all are faster", "hardly", "slower", "long"],
)
def test_threads_are_chosen_by_the_clock(monkeypatch, task, seconds, chosen):
    """A long pass is not made with one thread at all."""
    monkeypatch.setattr(runtime, "_ALL_THREADS", 2)
    monkeypatch.setattr(runtime, "_passes", lambda task, model, batch, threads, count: seconds[threads])
    threads, told = runtime.pick_threads("auto", task.model, task, BATCH, torch.device("cpu"))
    assert threads == chosen == torch.get_num_threads()
    assert told.startswith(f"threads: {chosen} (")


def test_the_measurement_leaves_no_trace(monkeypatch):
    monkeypatch.setattr(runtime, "_ALL_THREADS", 2)
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(), nn.Linear(3, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stream = torch.get_rng_state()
    runtime.pick_threads("auto", model, Supervised(model, nn.functional.cross_entropy), BATCH, torch.device("cpu"))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), stream)
    assert all(p.grad is None for p in model.parameters())

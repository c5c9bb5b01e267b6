"""Loss and accuracy against a mean written out, and the sums a run keeps."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpkit.core.optimizer import StepReport
from sharpkit.core.task import Batch, Supervised
from sharpkit.data import part as module
from sharpkit.data.samples import Samples
from sharpkit.engine.evaluate import evaluate
from sharpkit.engine.records import Records


def model():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    net[1].running_mean.normal_()
    net[1].running_var.uniform_(0.5, 2)
    return net


def samples(count):
    generator = torch.Generator().manual_seed(1)
    return Samples(
        torch.randn(count, 5, generator=generator), torch.randint(3, (count,), generator=generator), torch.arange(count)
    )


def by_hand(net, data):
    """In float64 NumPy: linear, normalisation by the running statistics, rectifier, linear, cross-entropy."""
    state = {name: value.double().numpy() for name, value in net.state_dict().items()}
    x = data.inputs.double().numpy() @ state["0.weight"].T + state["0.bias"]
    x = (x - state["1.running_mean"]) / np.sqrt(state["1.running_var"] + 1e-5) * state["1.weight"] + state["1.bias"]
    logits = np.maximum(x, 0) @ state["4.weight"].T + state["4.bias"]
    targets = data.targets.numpy()
    chosen = logits[np.arange(len(targets)), targets]
    return (np.log(np.exp(logits).sum(1)) - chosen).mean(), (logits.argmax(1) == targets).mean()


@pytest.mark.parametrize("count", [1, 7, 8, 17, 30])
@pytest.mark.parametrize("training", [True, False])
def test_every_sample_weighs_the_same_also_in_an_uneven_chunk(monkeypatch, count, training):
    monkeypatch.setattr(module, "_AT_ONCE", 8)
    net, data = model().train(training), samples(count)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    score = evaluate(net, Supervised(net, F.cross_entropy), data)
    loss, accuracy = by_hand(net, data)
    assert score.loss == pytest.approx(loss, rel=1e-5)
    assert score.accuracy == pytest.approx(accuracy, abs=1e-7)
    assert [m.training for m in net.modules()] == [training] * 6
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_the_mode_is_put_back_when_the_model_raises():
    net = model().train()
    with pytest.raises(RuntimeError):
        evaluate(
            net, Supervised(net, F.cross_entropy), Samples(torch.zeros(2, 4), torch.zeros(2).long(), torch.arange(2))
        )
    assert net.training


def test_without_samples_there_is_no_number():
    score = evaluate(model(), Supervised(model(), F.cross_entropy), samples(0))
    assert math.isnan(score.loss)
    assert math.isnan(score.accuracy)


# ---------------------------------------------------------------------- records


def report(loss, right, size, dropped=False):
    """A report of `size` samples of class 0, of which `right` are classified as such."""
    outputs = torch.zeros(size, 2)
    outputs[:right, 0] = 1
    outputs[right:, 1] = 1
    given = StepReport(torch.tensor(loss), True, dropped, 0, 0, 0.0, 0.0, 0.0, outputs)
    return given, Batch(torch.zeros(size, 1), torch.zeros(size).long())


def noted(*steps):
    records = Records()
    for number, step in enumerate(steps, 1):
        records.add(number, *report(*step))
    return records


def test_means_weigh_samples_and_the_window_weighs_steps():
    records = noted((2.0, 3, 8), (1.0, 2, 2))
    assert records.collect() is None
    assert records.mean_loss() == pytest.approx((2.0 * 8 + 1.0 * 2) / 10)
    assert records.accuracy() == pytest.approx(5 / 10)
    assert records.take_window() == {"loss": pytest.approx(1.5)}
    assert math.isnan(records.take_window()["loss"])


def test_nothing_seen_is_no_number():
    records = Records()
    assert records.collect() is None
    assert all(math.isnan(v) for v in (records.mean_loss(), records.accuracy(), records.take_window()["loss"]))


def test_dropped_steps_do_not_count():
    records = noted((2.0, 3, 8), (math.inf, 8, 8, True), (math.nan, 8, 8, True))
    assert records.collect() is None
    assert (records.mean_loss(), records.accuracy(), records.take_window()) == (2.0, 3 / 8, {"loss": 2.0})


def test_what_steps_note_is_averaged_over_those_that_do_and_is_finite():
    notes = [{"a": 1.0}, {"a": 3.0, "b": math.inf}, {"b": 5.0}, {}]
    records = Records()
    for number, noted_by_step in enumerate(notes[:2], 1):
        given, batch = report(1.0, 1, 2)
        records.add(number, replace(given, notes={k: torch.tensor(v) for k, v in noted_by_step.items()}), batch)
    records.collect()
    assert records.take_window() == {"loss": 1.0, "a": 2.0}
    resumed = Records.of(records.state_dict())
    for each in (records, resumed):
        for number, noted_by_step in enumerate(notes[2:], 3):
            given, batch = report(1.0, 1, 2)
            each.add(number, replace(given, notes={k: torch.tensor(v) for k, v in noted_by_step.items()}), batch)
        each.collect()
        assert each.notes.values() == {"a": 2.0, "b": 5.0}
        assert each.take_window() == {"loss": 1.0, "b": 5.0}
    assert records.next_epoch(3.0).notes.values() == {}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_first_loss_that_is_not_finite_is_named(bad):
    step, loss = noted((2.0, 3, 8), (bad, 0, 8), (math.nan, 0, 8)).collect()
    assert step == 2
    assert str(loss) == str(bad)


def test_stored_sums_go_on():
    whole, first = noted((2.0, 3, 8), (1.0, 2, 2)), noted((2.0, 3, 8))
    first.collect()
    second = Records.of(first.state_dict())
    second.add(2, *report(1.0, 2, 2))
    whole.collect()
    second.collect()
    assert second.state_dict() == whole.state_dict()

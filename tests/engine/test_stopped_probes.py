"""A signal within a measurement: the run stops at once, makes up for it, and never ends with an older number."""

import json
import signal

import pytest

from sharpkit.engine.probes import Probes
from sharpkit.errors import InterruptedRunError
from tests.engine.support import metrics, outcome, resume, run, small


def told(folder, result):
    """What a run leaves behind, without the seconds of its probes."""
    found = outcome(folder, result)
    for content in (found["checkpoint"], *found["others"].values()):
        del content["probe_seconds"]
    del found["cost"]["probe_s"]
    return found


KEYS = ("lambda_max", "sharpness_worst")


@pytest.fixture
def cut(monkeypatch):
    """Send a signal while the measurement after some step runs."""
    whole = Probes.measure

    def at(step, number=signal.SIGTERM):
        def measure(self, go_on):
            if self._session.optimizer.totals.steps == step:
                signal.raise_signal(number)
            return whole(self, go_on)

        monkeypatch.setattr(Probes, "measure", measure)

    yield at
    monkeypatch.undo()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("step", [0, 3, 6, 9, 18])
def test_the_run_stops_there_and_goes_on_as_if_it_had_not(tmp_path, cut, monkeypatch, step, number):
    config = small(tmp_path, probe="lambda-max,sharpness", probe_every=3, epochs=3)
    expected = told(tmp_path / "whole", run(config, tmp_path / "whole"))
    cut(step, number)
    with pytest.raises(InterruptedRunError) as stopped:
        run(config, tmp_path / "cut")
    assert stopped.value.exit_code == 128 + number
    assert f"after step {step}" in stopped.value.message
    assert not (tmp_path / "cut/summary.json").exists()
    assert not (tmp_path / "cut/seal.json").exists()
    lines = metrics(tmp_path / "cut") if step else []
    assert [line["step"] for line in lines if line["kind"] == "probe"] == list(range(0, step, 3)), (
        "what was measured, without the one that was cut off"
    )
    monkeypatch.undo()
    again = told(tmp_path / "cut", resume(tmp_path / "cut"))
    order = lambda line: (line["step"], line["kind"])  # noqa: E731 - a probe that was made up for comes after its epoch
    assert sorted(again.pop("metrics"), key=order) == sorted(expected.pop("metrics"), key=order)
    assert again == expected
    last = [line for line in metrics(tmp_path / "cut") if line["kind"] == "probe"][-1]
    summary = json.loads((tmp_path / "cut/summary.json").read_text())["metrics"]
    assert last["step"] == 18
    assert {key: summary[key] for key in KEYS} == {key: last[key] for key in KEYS}

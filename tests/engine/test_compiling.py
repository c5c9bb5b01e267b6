"""Runs whose training passes are compiled: as any other run, and refused where they cannot be."""

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import functional as F

from sharpkit.core.task import Batch, Supervised
from sharpkit.engine import checkpoint, compiling
from sharpkit.engine.compiling import compiled
from sharpkit.errors import InputError, InterruptedRunError
from tests.core.support import bits
from tests.engine.support import Quiet, Stopper, metrics, resume, run, small, stored, untimed, weights


@pytest.fixture
def counter(monkeypatch):
    """A backend that compiles nothing and counts what it is given."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    monkeypatch.setattr(compiling, "BACKEND", counter)
    return counter


class Told(Quiet):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def test_a_run_is_the_one_without_compilation(tmp_path, counter):
    told = Told()
    plain, fast = (
        run(small(tmp_path), tmp_path / "a"),
        run(small(tmp_path, compile=True), tmp_path / "b", observer=told),
    )
    assert untimed(plain.metrics) == untimed(fast.metrics)
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert counter.frame_count == 2  # the whole batch and the epoch's smaller last one
    assert [note for note in told.notes if note.startswith("compile: ") and note.endswith(" s for the first pass")]
    assert (plain.config["compile"], fast.config["compile"]) == (False, True)


def test_a_run_that_goes_on_ends_as_one_that_was_not_stopped(tmp_path, counter):
    config = small(tmp_path, compile=True, opt="sampa")
    run(config, tmp_path / "a")
    with pytest.raises(InterruptedRunError):
        run(config, tmp_path / "b", observer=Stopper(8))
    resume(tmp_path / "b")
    assert stored(tmp_path / "a/ckpt.pt") == stored(tmp_path / "b/ckpt.pt")


def test_its_checkpoint_starts_any_other_run(tmp_path, counter):
    run(small(tmp_path, compile=True, epochs=1), tmp_path / "a")
    assert not [name for name in checkpoint.load(tmp_path / "a/ckpt.pt")["model"] if "_orig_mod" in name]
    run(small(tmp_path, init=str(tmp_path / "a")), tmp_path / "b")
    run(small(tmp_path, init=str(tmp_path / "a"), compile=True), tmp_path / "c")
    assert weights(tmp_path / "b") == weights(tmp_path / "c")


def task_of(model):
    return Supervised(model, F.cross_entropy), Batch(torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))


def test_compiling_leaves_the_model_as_it_was(counter):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)).eval()
    plain, batch = task_of(model)
    before, random = bits(dict(model.state_dict())), torch.get_rng_state()
    task, _ = compiled(plain, batch)
    assert bits(dict(model.state_dict())) == before
    assert torch.equal(torch.get_rng_state(), random)
    assert not model.training
    assert all(p.grad is None for p in model.parameters())
    assert counter.frame_count == 1
    assert list(task.task.model.state_dict()) == list(before)


def test_evaluation_and_single_samples_are_not_compiled(counter):
    """A layer that refuses a single sample does so in its own words."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    plain, batch = task_of(model)
    task, _ = compiled(plain, batch)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        task.outputs(batch.select_range(0, 1))
    model.eval()
    assert torch.equal(task.outputs(batch), plain.outputs(batch))
    assert counter.frame_count == 1


def test_a_backend_that_fails_is_told_in_one_line(monkeypatch):
    def broken(graph, inputs):
        raise ArithmeticError("no such luck\nand more of it")

    torch._dynamo.reset()
    monkeypatch.setattr(compiling, "BACKEND", broken)
    with pytest.raises(
        InputError, match="the model cannot be compiled: ArithmeticError: no such luck and more"
    ) as told:
        compiled(*task_of(nn.Linear(3, 2)))
    assert told.value.hint == "correct the model, or leave --compile out"
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(("kind", "remedy"), [("InvalidCxxCompiler", "such as g\\+\\+,"), ("TritonMissing", "Triton")])
def test_a_tool_that_is_missing_is_named(monkeypatch, kind, remedy):
    def broken(graph, inputs):
        raise type(kind, (RuntimeError,), {})("not found")

    torch._dynamo.reset()
    monkeypatch.setattr(compiling, "BACKEND", broken)
    with pytest.raises(InputError, match=rf"torch\.compile does not work here: {kind}: not found .*install .*{remedy}"):
        compiled(*task_of(nn.Linear(3, 2)))

"""A run that is stopped and goes on is, bit for bit, the run that never stopped."""

import random
import signal
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from sharpkit import RECIPES
from sharpkit.engine import external, fit
from sharpkit.errors import DivergedError, InputError, InterruptedRunError, UsageError
from tests.engine.support import Stopper, metrics, outcome, resume, run, small, stored, weights

OPTS = [*RECIPES, "sampa+asam"]


@pytest.fixture(autouse=True)
def _log_often(monkeypatch):
    """Log lines every 4 steps, so that windows straddle batches, epochs and interruptions."""
    monkeypatch.setattr(fit, "LOG_EVERY", 4)


def uninterrupted(config, folder):
    return outcome(folder, run(config, folder))


def stopped_at(config, folder, *steps, number=signal.SIGTERM):
    """Run, be stopped after each of the steps, and go on each time."""
    for i, step in enumerate(steps):
        observer = Stopper(step, number=number)
        sitting = partial(resume, folder, observer=observer) if i else partial(run, config, folder, observer=observer)
        with pytest.raises(InterruptedRunError) as told:
            sitting()
        assert told.value.exit_code == 128 + number
        assert f"step {step}" in told.value.message
        assert str(folder) in told.value.hint
        assert stored(folder / "ckpt.pt")["step"] == step
        external.seed(1234)  # another process would start from another random state
    return outcome(folder, resume(folder))


@pytest.mark.parametrize("base", ["sgd", "adamw"])
@pytest.mark.parametrize("opt", OPTS)
def test_every_recipe_goes_on_as_if_nothing_had_happened(tmp_path, opt, base):
    config = small(tmp_path, opt=opt, base=base, augment="cutout", label_noise=0.2)
    assert stopped_at(config, tmp_path / "b", 8) == uninterrupted(config, tmp_path / "a")


@pytest.mark.parametrize("steps", [(1,), (5,), (6,), (12,), (17,), (1, 2, 3), (4, 6, 11, 12, 13), (8, 16)], ids=str)
def test_it_may_be_stopped_anywhere_and_often(tmp_path, steps):
    """Also at the end of an epoch (6, 12), on a log line (4, 8, 16), and before the last step (17)."""
    config = small(tmp_path, opt="sampa", augment="basic", save_every="best")
    assert stopped_at(config, tmp_path / "b", *steps) == uninterrupted(config, tmp_path / "a")


@pytest.mark.parametrize(
    "options",
    [
        {"rng": "fresh", "bn_stats": "both"},
        {"amp": "bf16", "accum": 3},
        {"clip": 0.5, "sched": "step", "warmup_epochs": 1.5},
        {"nesterov": True, "smoothing": 0.1, "save_every": "1"},
        {"val_frac": 0.0, "deterministic": True},
        {"base": "torch.optim:NAdam", "sched": "const"},
    ],
    ids=lambda o: "-".join(o),
)
def test_every_option_survives(tmp_path, options):
    config = small(tmp_path, opt="sampa", **options)
    assert stopped_at(config, tmp_path / "b", 9) == uninterrupted(config, tmp_path / "a")


def test_ctrl_c_saves_as_well_and_the_handlers_are_put_back(tmp_path):
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    config = small(tmp_path)
    again = stopped_at(config, tmp_path / "b", 7, number=signal.SIGINT)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert again == uninterrupted(config, tmp_path / "a")


def test_a_second_ctrl_c_stops_at_once_and_the_last_checkpoint_still_goes_on(tmp_path):
    class Impatient(Stopper):
        def step(self, step, size):
            if step == 8:
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)

    config = small(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "b", observer=Impatient())
    assert stored(tmp_path / "b/ckpt.pt")["step"] == 6
    assert outcome(tmp_path / "b", resume(tmp_path / "b")) == uninterrupted(config, tmp_path / "a")


def test_a_signal_in_the_last_step_lets_the_run_finish(tmp_path):
    config = small(tmp_path)
    finished = run(config, tmp_path / "b", observer=Stopper(18))
    assert outcome(tmp_path / "b", finished) == uninterrupted(config, tmp_path / "a")


def test_starting_weights_are_not_loaded_again(tmp_path):
    run(small(tmp_path, epochs=1), tmp_path / "start")
    config = small(tmp_path, seed=5, init=str(tmp_path / "start"))
    reference = uninterrupted(config, tmp_path / "a")
    again = stopped_at(config, tmp_path / "b", 8)
    for part in ("metrics", "numbers", "cost"):
        assert again[part] == reference[part]
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


def test_the_starting_weights_stay_in_the_record_of_a_resumed_run(tmp_path):
    run(small(tmp_path, epochs=1), tmp_path / "start")
    config = small(tmp_path, seed=5, init=str(tmp_path / "start"))
    assert stopped_at(config, tmp_path / "b", 8)["args"] == uninterrupted(config, tmp_path / "a")["args"]


def test_a_finished_run_comes_back_at_once_unchanged(tmp_path):
    first = run(small(tmp_path), tmp_path / "a")
    before = outcome(tmp_path / "a", first)
    steps = Counted()
    again = resume(tmp_path / "a", observer=steps)
    assert steps.count == 0
    assert outcome(tmp_path / "a", again) == before
    assert again.cost["wall_s"] == first.cost["wall_s"]


class Counted(Stopper):
    count = 0

    def step(self, step, size):
        self.count += 1


def test_resuming_takes_only_the_steps_that_are_left(tmp_path):
    stop = Stopper(8)
    with pytest.raises(InterruptedRunError):
        run(small(tmp_path), tmp_path / "a", observer=stop)
    counted = Counted()
    resume(tmp_path / "a/ckpt.pt", observer=counted)
    assert counted.count == 10


@pytest.fixture
def halfway(tmp_path):
    with pytest.raises(InterruptedRunError):
        run(small(tmp_path, opt="sampa:lam=0.5:rho=0.3"), tmp_path / "a", observer=Stopper(8))
    return tmp_path / "a"


@pytest.mark.parametrize(
    "given",
    [
        {"lr": 0.2},
        {"epochs": 4},
        {"seed": 1},
        {"opt": "sam"},
        {"opt": "sampa:lam=0.4:rho=0.3"},
        {"rho": 0.2},
        {"batch_size": 16},
        {"nesterov": True},
        {"clip": 1.0},
        {"data": "mnist5k"},
        {"save_every": "best"},
    ],
    ids=str,
)
def test_options_that_contradict_the_run_are_refused(halfway, given):
    with pytest.raises(UsageError, match=r"--[a-z-]+ is .*, the run was started with .*leave it out"):
        resume(halfway, given)


@pytest.mark.parametrize(
    "given",
    [
        {"lr": 0.1, "epochs": 3, "model": "auto", "augment": "none", "limit": 200},
        {"opt": "sampa:rho=0.3:lam=0.5"},
        {"rho": 0.3},
        {"opt": "sampa:lam=0.5", "rho": 0.3},
        {"device": "cpu", "threads": "1"},
    ],
    ids=str,
)
def test_options_that_say_the_same_are_accepted(halfway, given):
    assert resume(halfway, given).metrics["epochs"] == 3


def test_the_starting_weights_may_be_named_again(tmp_path):
    start = run(small(tmp_path, epochs=1), tmp_path / "start").run_dir
    with pytest.raises(InterruptedRunError):
        run(small(tmp_path, init=start), tmp_path / "a", observer=Stopper(8))
    resume(tmp_path / "a", {"init": start})


def test_a_run_directory_can_be_moved(tmp_path, halfway):
    reference = metrics(halfway)
    moved = halfway.rename(tmp_path / "moved")
    resume(moved)
    assert metrics(moved)[: len(reference)] == reference
    assert not halfway.exists()


def test_a_run_that_diverges_after_it_was_resumed_keeps_the_last_good_checkpoint(tmp_path):
    config = small(tmp_path, lr=1e20, sched="const", warmup_epochs=0.0)
    with pytest.raises(DivergedError):
        run(config, tmp_path / "a")
    kept = stored(tmp_path / "a/ckpt.pt")
    with pytest.raises(DivergedError):
        resume(tmp_path / "a")
    assert stored(tmp_path / "a/ckpt.pt") == kept


def test_nothing_to_resume(tmp_path):
    with pytest.raises(InputError, match=r"checkpoint .*nowhere.* does not exist"):
        resume(tmp_path / "nowhere")


def test_resuming_does_not_depend_on_the_options_default(tmp_path):
    """A configuration says everything, so that a resumed run does not follow a later default."""
    config = small(tmp_path)
    with pytest.raises(InterruptedRunError):
        run(config, tmp_path / "a", observer=Stopper(8))
    kept = stored(tmp_path / "a/ckpt.pt")["config"]
    # None by default, which TOML cannot say
    unset = {"rho", "limit", "init", "clip", "preset", "rho_warmup_epochs", "probe", "probe_every"}
    assert set(kept) >= set(replace(config).__dataclass_fields__) - unset


def test_a_recipe_with_a_colon_in_a_value_goes_on(tmp_path):
    config = small(tmp_path, opt="ssam-d:structure=2:4:rho=0.2")
    with pytest.raises(InterruptedRunError):
        run(config, tmp_path / "a", observer=Stopper(8))
    with pytest.raises(UsageError, match=r"--rho is 0\.1, the run was started with 0\.2"):
        resume(tmp_path / "a", {"rho": 0.1})
    assert resume(tmp_path / "a", {"rho": 0.2}).config["opt"].endswith("drop=flat:structure=2:4")


LAYER_DROP = """
import random

import numpy as np
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(4))
        self.head = nn.Linear(64, classes)

    def forward(self, x):
        x = x.flatten(1)
        for layer in self.layers:
            if not self.training or random.random() < 0.5 or np.random.randn() > 1:
                x = x + torch.tanh(layer(x))
        return self.head(x)


def net(shape, classes):
    return Net(classes)
"""


@pytest.mark.parametrize("opt", ["sam", "sampa"])
def test_draws_of_python_and_numpy_go_on_as_if_nothing_had_happened(tmp_path, opt):
    config = small(tmp_path, opt=opt)
    (tmp_path / "net.py").write_text(LAYER_DROP)
    states = random.getstate(), np.random.get_state()
    try:
        expected = uninterrupted(config, tmp_path / "a")
        assert stopped_at(config, tmp_path / "b", 3, 8) == expected
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])

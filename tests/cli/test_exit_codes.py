"""Every way in which a run can end: its exit code, its line, and what is left on the disk."""

import json
import signal
from pathlib import Path

import pytest
import torch

from tests.cli.conftest import TINY

SIGNALLING = """
import signal
import torch
from torch import nn

passes = 0


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(0.3))
        self.last = nn.Linear(16, classes)

    def forward(self, x):
        global passes
        passes += torch.is_grad_enabled()
        if passes == %d:
            passes += 1
            signal.raise_signal(%d)
        return self.last(self.layers(x))


def net(shape, classes):
    return Net(classes)
"""

WORDS = ("train", "--model", "m.py:net", "--limit", "200", "-b", "32", "--epochs", "2", "--threads", "1")


def signalling(at, number=signal.SIGTERM):
    """A model that raises a signal in its n-th training pass: one before the run, then 2 a step, 6 steps an epoch."""
    Path("m.py").write_text(SIGNALLING % (at, number))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(("at", "step"), [(8, 4), (13, 6)])
def test_a_signal_saves_and_says_how_to_go_on(sharpkit, number, code, at, step):
    signalling(-1)
    reference = sharpkit(*WORDS, "--out", "a", "--json")
    signalling(at, number)
    done = sharpkit(*WORDS, "--out", "b")
    assert (done.code, done.stdout) == (code, "")
    assert f"stopped by signal {number:d} after step {step}; saved b/ckpt.pt; go on with:" in done.told
    again = done.told.partition("go on with: sharpkit ")[2].split()
    assert again == ["train", "--resume", "b"]
    signalling(-1)
    finished = sharpkit(*again, "--json")
    assert finished.code == 0
    assert f"going on after step {step} of 12" in finished.stderr
    keys = ("test_acc", "test_loss", "val_acc", "train_loss")
    assert [finished.json["metrics"][k] for k in keys] == [reference.json["metrics"][k] for k in keys]
    a, b = (torch.load(f"{folder}/ckpt.pt", weights_only=True)["model"] for folder in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_command_to_go_on_survives_a_space_in_the_path(sharpkit):
    signalling(3)
    told = sharpkit(*WORDS, "--out", "my runs/a").told
    assert "--resume 'my runs/a'" in told


def test_an_interrupted_run_is_a_document_too(sharpkit):
    signalling(3)
    done = sharpkit(*WORDS, "--json")
    assert (done.code, done.json["error"]["code"]) == (143, "interrupted")


def test_resume_auto_starts_goes_on_and_returns(sharpkit):
    words = (*WORDS, "--resume", "auto")
    signalling(8)
    assert sharpkit(*words).code == 143
    first = Path("runs").iterdir().__next__()
    signalling(-1)
    done = sharpkit(*words)
    assert (done.code, done.stdout) == (0, f"{first}/ckpt.pt\n")
    assert "going on after step 4 of 12" in done.stderr
    again = sharpkit(*words, "--json")
    assert "going on after step 12 of 12" in again.stderr
    assert "epoch " not in again.stderr
    assert again.json["files"][0] == f"{first}/ckpt.pt"
    assert len(list(Path("runs").iterdir())) == 1
    other = sharpkit(*words, "--lr", "0.01")
    assert (other.code, other.stdout) == (0, f"{first}-2/ckpt.pt\n")


def test_resume_auto_takes_the_run_in_out(sharpkit):
    words = ("train", *TINY, "--out", "r", "--resume", "auto")
    assert sharpkit(*words).stdout == sharpkit(*words).stdout == "r/ckpt.pt\n"
    assert sharpkit(*words, "--lr", "0.3").code == 2


def test_resume_auto_gives_the_files_that_were_asked_for(sharpkit):
    sharpkit("train", *TINY, "--resume", "auto")
    done = sharpkit("train", *TINY, "--resume", "auto", "--save-every", "best")
    assert done.code == 2 or Path(done.stdout.strip()).with_name("best.pt").is_file()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--lr", "0.2"), r"--lr is 0.2, the run was started with 0.1"),
        (("--opt", "sgd"), r"--opt is sgd, the run was started with sam:rho=0.05"),
        (("--rho", "0.2"), r"--rho"),
        (("--overwrite",), r"--resume and --overwrite are both given"),
        (("--out", "other"), r"--resume RUN goes on in RUN, and --out is given"),
        (("--data", "mnist5k"), r"--data is mnist5k, the run was started with digits"),
    ],
)
def test_resume_refuses_what_contradicts_the_run(train, sharpkit, given, message):
    train("--out", "r")
    before = Path("r/metrics.jsonl").read_bytes(), Path("r/ckpt.pt").read_bytes()
    done = sharpkit("train", "--resume", "r", *given)
    assert (done.code, done.stdout) == (2, "")
    assert message in done.told
    assert (Path("r/metrics.jsonl").read_bytes(), Path("r/ckpt.pt").read_bytes()) == before


@pytest.mark.parametrize("opt", ["sgd", "sam", "sampa"])
def test_divergence_names_the_step_and_keeps_a_finite_checkpoint(sharpkit, opt):
    """The rate is finite for the first epoch and far too large for the second one."""
    words = ("--opt", opt, "--lr", "1e30", "--warmup-epochs", "0", "--sched", "const", "--out", "r")
    done = sharpkit("train", *TINY, *words)
    assert (done.code, done.stdout) == (4, "")
    assert "at step 2 (epoch 1)" in done.told
    assert "lower --lr (now 1e+30)" in done.told
    assert "the last good checkpoint is r/ckpt.pt (step 0)" in done.told
    assert ("or rho" in done.told) is (opt != "sgd")
    kept = torch.load("r/ckpt.pt", weights_only=True)
    assert kept["step"] == 0
    assert all(torch.isfinite(value).all() for value in kept["model"].values())
    assert not Path("r/summary.json").exists()
    assert not list(Path("r").glob(".*"))


def test_a_model_that_is_not_finite_is_never_the_result(sharpkit):
    """Here the weights stay finite and the running variance of batch norm does not."""
    done = sharpkit("train", "--model", "cnn", "--epochs", "4", "--limit", "200", "--lr", "1e3", "--out", "r", "-q")
    kept = torch.load("r/ckpt.pt", weights_only=True)["model"]
    assert all(torch.isfinite(value).all() for value in kept.values())
    assert done.code == 4


OVERFLOWING = """
import torch
from torch import nn


class Net(nn.Linear):
    def forward(self, x):
        outputs = super().forward(x.flatten(1))
        return outputs * 1e30 if self.training and torch.is_grad_enabled() else outputs


def net(shape, classes):
    return Net(64, classes)
"""


@pytest.mark.parametrize(
    ("epochs", "message"),
    [("2", "every step overflowed in fp16, and none was taken"), ("9", "whatever the loss scale, at step 41")],
)
def test_a_run_that_overflows_at_every_step_has_diverged(sharpkit, epochs, message):
    Path("m.py").write_text(OVERFLOWING)
    words = ("--model", "m.py:net", "--limit", "200", "-b", "32", "--amp", "fp16", "--threads", "1", "--out", "r")
    done = sharpkit("train", *words, "--epochs", epochs)
    assert (done.code, done.stdout) == (4, "")
    assert message in done.told


def test_weights_to_start_from_that_are_not_finite_are_an_input_error(train):
    train("--out", "r")
    state = torch.load("r/ckpt.pt", weights_only=True)["model"]
    torch.save({name: value * float("nan") for name, value in state.items()}, "nan.pt")
    done = train("--init", "nan.pt")
    assert done.code == 3
    assert "nan.pt" in done.told


def test_save_every(train):
    def steps(*options):
        train("--out", "r", "--overwrite", *options)
        return {p.name: torch.load(p, weights_only=True)["step"] for p in sorted(Path("r").glob("*.pt"))}

    train("--out", "r")
    assert steps("--save-every", "1") == {"ckpt.pt": 4, "epoch-1.pt": 2, "epoch-2.pt": 4}
    assert steps("--save-every", "2") == {"ckpt.pt": 4, "epoch-2.pt": 4}
    assert steps() == {"ckpt.pt": 4}


def test_best_is_the_epoch_of_the_best_validation_accuracy(sharpkit):
    words = ("--epochs", "6", "--limit", "200", "--model", "mlp", "--out", "r", "--save-every", "best")
    document = sharpkit("train", *words, "--json").json
    lines = [json.loads(line) for line in Path("r/metrics.jsonl").read_text().splitlines()]
    accuracies = [line["val_acc"] for line in lines]
    best = torch.load("r/best.pt", weights_only=True)
    assert best["step"] == 2 * (accuracies.index(max(accuracies)) + 1)
    assert document["metrics"]["best_val_acc"] == max(accuracies)
    assert "r/best.pt" in document["files"]


def test_the_best_by_validation_needs_validation_data(train):
    done = train("--save-every", "best", "--val-frac", "0")
    assert done.code == 2
    assert "val" in done.told


def test_overwrite_replaces_a_run_and_nothing_else(train):
    train("--out", "r", "--save-every", "1")
    Path("r/notes.txt").write_text("mine")
    refused = train("--out", "r")
    assert refused.code == 2
    assert "--overwrite" in refused.told
    assert train("--out", "r", "--overwrite", "--seed", "7").code == 0
    assert sorted(p.name for p in Path("r").glob("*.pt")) == ["ckpt.pt"]
    assert Path("r/notes.txt").read_text() == "mine"
    assert "seed = 7" in Path("r/config.toml").read_text()


def test_overwrite_without_out_is_not_ignored(train):
    train()
    done = train("--overwrite")
    assert done.code == 2 or done.stdout == "runs/digits-mlp-sam-s0/ckpt.pt\n"


def test_the_same_command_twice_makes_two_runs_with_the_same_numbers(train):
    first, second = train("--json").json, train("--json").json
    assert second["checkpoint"] == "runs/digits-mlp-sam-s0-2/ckpt.pt"
    assert first["metrics"] == second["metrics"]


# ---------------------------------------------------------------------- as a process


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("sharpkit train --help", 141),
        pytest.param("sharpkit ls", 141, marks=pytest.mark.slow),
        pytest.param("sharpkit train --lr -1 --json", 2, marks=pytest.mark.slow),
    ],
)
def test_a_reader_that_is_gone_ends_the_program_quietly(process, command, code, unbuffered):
    done = process(f"{command} | true; exit ${{PIPESTATUS[0]}}", PYTHONUNBUFFERED=unbuffered)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert done.code in (code, 141)


@pytest.mark.slow
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_run_whose_path_nobody_reads(process, unbuffered):
    done = process(f"sharpkit train {' '.join(TINY)} -q | true; exit ${{PIPESTATUS[0]}}", PYTHONUNBUFFERED=unbuffered)
    assert (done.code, done.stderr) == (141, "")
    assert Path("runs/digits-mlp-sam-s0/summary.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [("INT", 130), ("TERM", 143)])
def test_a_signal_from_outside(process, name, code):
    run = "--epochs 2000 --limit 200 --model mlp --threads 1 --out r"
    done = process(
        f"""set -m
        sharpkit train {run} &
        for i in $(seq 300); do grep -q epoch r/metrics.jsonl 2>/dev/null && break; sleep 0.1; done
        kill -{name} $!
        wait $!"""
    )
    assert done.code == code, done.stderr
    assert "saved r/ckpt.pt; go on with: sharpkit train --resume r\n" in done.stderr
    assert not list(Path("r").glob(".*"))
    assert torch.load("r/ckpt.pt", weights_only=True)["step"] > 0


@pytest.mark.slow
def test_a_signal_that_the_caller_ignores_stays_ignored(process):
    """`nohup`, and a shell script's background jobs, ignore SIGINT."""
    run = "--epochs 40 --limit 200 --model mlp --threads 1 --out r -q"
    done = process(
        f"""trap '' INT
        sharpkit train {run} &
        for i in $(seq 300); do grep -q epoch r/metrics.jsonl 2>/dev/null && break; sleep 0.05; done
        kill -INT $!
        wait $!"""
    )
    assert (done.code, done.stdout) == (0, "r/ckpt.pt\n"), done.stderr


@pytest.mark.slow
def test_a_process_and_this_one_compute_the_same(process, sharpkit):
    words = [*TINY, "--opt", "sampa+asam", "--augment", "cutout"]
    done = process(f"sharpkit train {' '.join(words)} --out a --json")
    here = sharpkit("train", *words, "--out", "b", "--json")
    assert done.json["metrics"] == here.json["metrics"]
    first, second = (torch.load(f"{folder}/ckpt.pt", weights_only=True)["model"] for folder in "ab")
    assert all(torch.equal(first[name], second[name]) for name in first)

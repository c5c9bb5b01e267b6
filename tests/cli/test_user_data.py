"""A user's data and a run: the same data in every run, and no other data in a resumed one."""

from pathlib import Path

import pytest

from tests.cli.conftest import write

RANDOM = """
import random

def f():
    x = torch.randn(90, 4) + np.random.randn() + random.random()
    return x, (x.sum(1) > 10).long()
"""
WORDS = ("train", "--data", "u.py:f", "--epochs", "2", "--threads", "1")


def test_data_that_are_drawn_are_the_same_in_every_run(sharpkit):
    write(RANDOM)
    runs = [sharpkit(*WORDS, "--json").json for _ in range(2)]
    again = sharpkit("train", "--config", runs[0]["run_dir"] + "/config.toml", "--json").json
    other = sharpkit(*WORDS, "--seed", "1", "--json").json
    assert runs[0]["metrics"] == runs[1]["metrics"] == again["metrics"] != other["metrics"]


def test_a_run_does_not_go_on_with_other_data(sharpkit, fails):
    write(RANDOM)
    sharpkit(*WORDS, "--out", "r")
    assert sharpkit("train", "--resume", "r").code == 0
    write(RANDOM.replace("> 10", "> 11"))
    assert "changed since you trained with it" in fails(3, "train", "--resume", "r")
    assert "are not those that r/ckpt.pt was trained on" in fails(3, "train", "--resume", "r", "--data", "u.py:f")


@pytest.mark.parametrize(("call", "where"), [(7, "at step 3"), (9, "in the evaluation after step 3")])
def test_a_model_that_fails_late_is_the_users(sharpkit, fails, call, where):
    write(
        "class N(nn.Module):\n    n = 0\n\n    def __init__(self):\n        super().__init__()\n"
        "        self.l = nn.Linear(64, 10)\n\n    def forward(self, x):\n        self.n += 1\n"
        f"        if self.n == {call}:\n            raise RuntimeError('late')\n        return self.l(x.flatten(1))\n\n"
        "def f(s, c):\n    return N()\n"
    )
    told = fails(3, "train", "--model", "u.py:f", "--limit", "60", "--threads", "1", "--out", "r")
    assert f"{where}: RuntimeError: late" in told
    assert "the last good checkpoint is r/ckpt.pt" in told


@pytest.mark.parametrize("layer", ["nn.LazyLinear(10)", "nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.LazyLinear(10)"])
def test_lazy_layers_take_their_shapes_from_the_data(sharpkit, layer):
    write(f"def f(s, c):\n    return nn.Sequential(nn.Flatten(), {layer})\n")
    words = ("train", "--model", "u.py:f", "--limit", "60", "--epochs", "1", "--threads", "1")
    assert sharpkit(*words, "--out", "r").code == 0
    assert sharpkit(*words, "--init", "r", "--out", "again").code == 0


def test_resume_auto_passes_over_what_it_cannot_read(sharpkit):
    words = ("train", "--limit", "60", "--epochs", "1", "--model", "mlp", "--threads", "1", "--resume", "auto")
    first = sharpkit(*words).stdout.strip()
    Path(first).write_bytes(b"damaged")
    Path(first).with_name("config.toml").write_text("damaged")
    done = sharpkit(*words)
    assert (done.code, done.stdout) == (0, first.replace("-s0/", "-s0-2/") + "\n")
    assert "passed over" in done.stderr


@pytest.mark.parametrize("field", ["model", "config", "optimizer", "asked", "randomness", "data", "records", "step"])
def test_a_checkpoint_without_a_field(sharpkit, fails, field):
    import torch

    sharpkit("train", "--limit", "60", "--epochs", "1", "--model", "mlp", "--threads", "1", "--out", "r")
    stored = torch.load("r/ckpt.pt", weights_only=True)
    del stored[field]
    torch.save(stored, "r/ckpt.pt")
    assert "r is no complete checkpoint" in fails(3, "train", "--resume", "r")


def test_a_radius_replaces_that_of_the_file(sharpkit):
    Path("c.toml").write_text('opt = "sampa:rho=0.3:lam=0.5"\n')
    assert (
        'opt = "sampa:rho=0.1:lam=0.5'
        in sharpkit("train", "--print-config", "--config", "c.toml", "--rho", "0.1").stdout
    )
    Path("c.toml").write_text('opt = "sam"\nrho = 0.3\n')
    assert (
        'opt = "sam:rho=0.7' in sharpkit("train", "--print-config", "--config", "c.toml", "--opt", "sam:rho=0.7").stdout
    )


@pytest.mark.parametrize("option", ["--nesterov", "--momentum=0.5"])
@pytest.mark.parametrize("base", ["adam", "adamw"])
def test_adam_has_no_momentum_to_set(fails, option, base):
    assert f"base is {base}, which has none" in fails(2, "train", "--base", base, option)


@pytest.mark.slow
@pytest.mark.parametrize("redirect", ["2>&-", "2>&1 >/dev/null | head -1"])
def test_a_log_that_nobody_reads_does_not_stop_a_run(process, redirect):
    process(f"sharpkit train --limit 60 --epochs 3 --model mlp --threads 1 --out r {redirect}")
    assert Path("r/summary.json").is_file()


@pytest.mark.slow
def test_a_full_device_is_told(process):
    done = process("sharpkit ls > /dev/full")
    assert done.code == 3
    assert done.told.startswith("sharpkit: No space left on device")

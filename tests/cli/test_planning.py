"""`--dry-run` and `--print-config` of every command that measures checkpoints."""

import tomllib
from pathlib import Path

import pytest

COMMANDS = {
    "landscape": ("--x", "-0.5:0.5:4", "--samples", "40"),
    "hessian": ("--top", "3", "--no-density", "--samples", "40"),
    "sharpness": ("--steps", "3", "--samples", "40"),
    "graddiff": ("--batches", "2", "-b", "16"),
    "gradnorm-qq": ("--batches", "12", "-b", "16"),
}

commands = pytest.mark.parametrize(("command", "words"), COMMANDS.items())


@pytest.fixture
def trained(train):
    train("--out", "r", "--data", "digits")
    return sorted(Path("r").iterdir())


@commands
def test_a_dry_run_loads_everything_and_writes_nothing(trained, sharpkit, command, words):
    done = sharpkit(command, "r", *words, "--dry-run", "--json")
    assert done.code == 0
    (row,) = done.json["plan"]
    assert (row["ckpt"], row["data"], row["model"], row["opt"]) == ("r", "digits", "mlp", "sam:rho=0.05")
    assert row["samples"] == (40 if "--samples" in words else 180)
    assert row["parameters"] == 85002
    assert sorted(Path("r").iterdir()) == trained
    table = sharpkit(command, "r", *words, "-n")
    assert table.stdout.splitlines()[0].split("\t")[:4] == ["ckpt", "data", "model", "opt"]


@commands
def test_a_dry_run_finds_what_a_run_would_fail_at(sharpkit, command, words):
    done = sharpkit(command, "missing", *words, "-n")
    assert (done.code, done.stdout) == (3, "")
    assert "missing" in done.told


@commands
def test_printed_options_can_be_given_back(sharpkit, command, words):
    done = sharpkit(command, "r", *words, "--print-config")
    printed = tomllib.loads(done.stdout)
    Path("c.toml").write_text(done.stdout)
    again = sharpkit(command, "r", "--config", "c.toml", "--print-config")
    assert tomllib.loads(again.stdout) == printed
    assert any(str(value) in words for value in printed.values())

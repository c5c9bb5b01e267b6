"""Where options come from, which there are, and that help and completion answer at once."""

import inspect
import io
import json
import os
import subprocess
import sys
import tomllib
import types
from pathlib import Path
from typing import Annotated, Literal, Union, get_args, get_origin

import pytest
import typer

from sharpkit.cli.options import PANELS, flag, with_options
from sharpkit.cli.train import train
from sharpkit.engine.config import TrainConfig, options
from tests.cli.conftest import TINY

GOLDEN = Path(__file__).parent / "golden/train_options.txt"


@pytest.fixture
def printed(sharpkit):
    """The options as `--print-config` resolves them."""
    return lambda *arguments: tomllib.loads(sharpkit("train", "--print-config", *arguments).stdout)


def test_flag_over_environment_over_file_over_default(printed, monkeypatch):
    Path("c.toml").write_text("lr = 0.3\nwd = 0.25\n")
    assert printed()["lr"] == 0.1
    assert printed("--config", "c.toml")["lr"] == 0.3
    monkeypatch.setenv("SHARPKIT_LR", "0.2")
    assert printed("--config", "c.toml")["lr"] == 0.2
    assert printed("--config", "c.toml", "--lr", "0.5")["lr"] == 0.5
    assert printed("--config", "c.toml", "--lr", "0.5")["wd"] == 0.25


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("NESTEROV", "1", True),
        ("BATCH_SIZE", "32", 32),
        ("LABEL_NOISE", "0.5", 0.5),
        ("OPT", "sgd", "sgd"),
        ("LR", "", 0.1),
    ],
)
def test_every_option_has_a_variable(printed, monkeypatch, name, given, value):
    monkeypatch.setenv(f"SHARPKIT_{name}", given)
    assert printed()[name.lower()] == value


def test_a_flag_can_switch_off_what_a_file_switches_on(printed):
    Path("c.json").write_text('{"nesterov": true}')
    assert printed("--config", "c.json")["nesterov"] is True
    assert printed("--config", "c.json", "--no-nesterov")["nesterov"] is False


def test_a_configuration_on_stdin(printed, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("epochs = 3\n"))
    assert printed("--config", "-")["epochs"] == 3


def test_the_printed_configuration_prints_itself(sharpkit):
    first = sharpkit("train", "--print-config", "--rho", "0.3", "--opt", "sampa", "--clip", "2", "--seed", "5")
    assert first.code == 0
    Path("c.toml").write_text(first.stdout)
    assert sharpkit("train", "--print-config", "--config", "c.toml").stdout == first.stdout


def test_a_dry_run_writes_nothing_and_says_what_would_be_done(sharpkit, tmp_path):
    done = sharpkit("train", *TINY, "--dry-run")
    assert not list(tmp_path.iterdir())
    rows = dict(line.split("\t") for line in done.stdout.splitlines())
    assert rows["option"] == "value"
    expected = {"training_samples": "180", "validation_samples": "20", "test_samples": "599", "steps": "4"}
    assert {key: rows[key] for key in expected} == expected
    assert rows["parameters"] == str(256 * 65 + 256 * 257 + 10 * 257)
    assert rows["run_dir"] == "runs/digits-mlp-sam-s0"
    sharpkit("train", *TINY)
    assert "digits-mlp-sam-s0-2" in sharpkit("train", *TINY, "-n").stdout


def test_a_dry_run_checks_and_tells_the_directory_that_was_chosen(sharpkit):
    assert "\nrun_dir\tmine\n" in sharpkit("train", *TINY, "-n", "--out", "mine").stdout
    Path("mine").mkdir()
    Path("mine/x").write_text("")
    assert sharpkit("train", *TINY, "-n", "--out", "mine").code == 2


def test_a_dry_run_of_a_resumed_run_is_not_the_plan_of_another(sharpkit):
    sharpkit("train", *TINY, "--out", "r")
    done = sharpkit("train", "-n", "--resume", "r")
    assert done.code == 2 or "epochs\t2\n" in done.stdout


@pytest.mark.parametrize("given", [("--seed", "5", "--epochs", "1"), ("--config", "c.toml")])
def test_the_suggested_next_run_differs_in_its_optimizer_alone(sharpkit, given):
    Path("c.toml").write_text("seed = 5\nepochs = 1\n")
    common = ("--limit", "200", "--model", "mlp", "--threads", "1")
    done = sharpkit("train", *common, *given)
    words = done.stderr.splitlines()[-1].partition("  #")[0].split()
    assert words[:3] == ["next:", "sharpkit", "train"]
    first, then = (
        tomllib.loads(sharpkit("train", "--print-config", *arguments).stdout)
        for arguments in ((*common, *given), words[3:])
    )
    assert {key for key in first.keys() | then.keys() if first.get(key) != then.get(key)} == {"opt"}


def test_the_suggestion_after_a_resumed_run_is_the_same(sharpkit):
    first = sharpkit("train", *TINY, "--out", "r").stderr.splitlines()[-1]
    assert sharpkit("train", "--resume", "r").stderr.splitlines()[-1] == first


# ---------------------------------------------------------------------- the surface


def described(kind):
    """The type of an option without the None that stands for not given: the same text on every Python."""
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    if get_origin(kind) in (Union, types.UnionType):
        return " ".join(described(member) for member in get_args(kind) if member is not types.NoneType)
    return kind.__name__


def surface():
    """One line an option: its names, its type, its default, its variable."""
    lines = []
    for parameter in inspect.signature(with_options(train)).parameters.values():
        if parameter.annotation is typer.Context:
            continue
        if get_origin(parameter.annotation) is Annotated:
            kind, option = get_args(parameter.annotation)
            names, default = [option.default, *option.param_decls], parameter.default
        else:
            kind, option = parameter.annotation, parameter.default
            names, default = option.param_decls, options()[parameter.name].default
        lines.append(f"{' '.join(names)}  {described(kind)}  {default!r}  {option.envvar or '-'}")
    return "\n".join(sorted(lines)) + "\n"


def test_a_change_of_the_options_is_a_decision():
    """To change the options, change the golden file with them."""
    assert surface() == GOLDEN.read_text()


def test_every_option_is_in_one_panel_and_in_the_help(sharpkit, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    shown = sharpkit("train", "--help").stdout
    listed = [name for names in PANELS.values() for name in names]
    assert sorted(listed) == sorted(options())
    for name, field in options().items():
        assert flag(name) in shown
        assert " ".join(field.metadata["help"].removesuffix(".").split()[:3]) in shown
    for panel in PANELS:
        assert f" {panel} " in shown
    assert TrainConfig().opt == "sam"


@pytest.mark.parametrize("columns", ["80", "120"])
def test_help_fits_the_width(sharpkit, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    for arguments in (["--help"], ["train", "-h"], ["compare", "-h"], ["ls", "--help"]):
        done = sharpkit(*arguments)
        assert done.code == 0
        assert max(len(line) for line in done.stdout.splitlines()) <= int(columns)


@pytest.mark.parametrize(
    ("arguments", "suggested"),
    [
        (["trian"], "train"),
        (["train", "--optt", "sam"], "--opt"),
        (["train", "--epoch", "3"], "--epochs"),
        (["train", "--opt", "smapa"], "sampa"),
        (["train", "--opt", "sam:roh=1"], "rho"),
        (["train", "--model", "cn"], "cnn"),
        (["train", "--data", "digit"], "digits"),
        (["train", "--data", "mnist"], "mnist5k"),
        (["train", "--augment", "cutuot"], "cutout"),
        (["train", "--base", "adma"], "adam"),
        (["ls", "modles"], "models"),
    ],
)
def test_did_you_mean(sharpkit, arguments, suggested):
    done = sharpkit(*arguments)
    assert (done.code, done.stdout) == (2, "")
    assert suggested in done.told


# ---------------------------------------------------------------------- at once


def alone(code, **environment):
    paths = os.pathsep.join(p for p in sys.path if p)
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_help_version_and_usage_errors_do_not_wait_for_torch():
    calls = [
        ["--help"],
        ["train", "--help"],
        ["compare", "--help"],
        ["ls", "--help"],
        ["--version"],
        ["trian"],
        ["train", "--lr", "x"],
        [],
    ]
    done = alone(
        f"import sys, json\nfrom sharpkit.cli.main import run\nfor call in {calls}:\n    run(call)\n"
        "print(json.dumps([m for m in ('torch', 'numpy', 'sklearn') if m in sys.modules]))"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_the_models_are_listed_without_torch():
    done = alone(
        "import sys\nfrom sharpkit.cli.main import run\nrun(['ls', 'models'])\nrun(['ls', 'models', '--json'])\n"
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    assert (done.returncode, done.stderr) == (0, "False\n")


def test_completion_completes_without_torch():
    code = (
        "import sys, atexit\natexit.register(lambda: print('torch' in sys.modules, file=sys.stderr))\n"
        "sys.argv = ['sharpkit']\nfrom sharpkit.cli.main import main\nmain()"
    )
    for words, completed in (("train --op", "--opt"), ("tr", "train"), ("train --augment cu", "cutout")):
        done = alone(
            code,
            _SHARPKIT_COMPLETE="complete_bash",
            COMP_WORDS=f"sharpkit {words}",
            COMP_CWORD=str(len(words.split())),
        )
        assert done.stdout.split() == [completed]
        assert done.stderr.strip() == "False"


def test_the_completion_script(process):
    done = process("sharpkit --show-completion bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert done.code == 0
    assert "complete_bash" in done.stdout

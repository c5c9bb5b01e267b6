"""Presets on the command line: precedence, what is told, and that a run can be done again from what it wrote."""

import json
import tomllib
from pathlib import Path

import pytest

from sharpkit.engine.papers import PRESETS
from tests.cli.conftest import plain
from tests.cli.test_options import alone

SSAM = ("--preset", "ssam/cifar10/resnet18")
HERE = ("--data", "digits", "--model", "cnn", "--epochs", "1", "--limit", "200", "--threads", "1")
"""What this version can train on."""


@pytest.fixture
def printed(sharpkit):
    """The options as `--print-config` resolves them."""
    return lambda *arguments: tomllib.loads(sharpkit("train", "--print-config", *HERE, *arguments).stdout)


def test_flag_over_environment_over_file_over_preset_over_default(printed, monkeypatch):
    assert printed()["wd"] == 5e-4
    assert printed(*SSAM, "--opt", "sam")["wd"] == 1e-3
    Path("c.toml").write_text("wd = 0.25\n")
    assert printed(*SSAM, "--config", "c.toml")["wd"] == 0.25
    monkeypatch.setenv("SHARPKIT_WD", "0.5")
    assert printed(*SSAM, "--config", "c.toml")["wd"] == 0.5
    assert printed(*SSAM, "--config", "c.toml", "--wd", "0.75")["wd"] == 0.75
    assert printed(*SSAM, "--config", "c.toml", "--wd", "0.75")["lr"] == 0.05


@pytest.mark.parametrize(
    ("arguments", "opt"),
    [
        (("--opt", "sam"), "sam:rho=0.1"),
        (("--opt", "sam:rho=0.2"), "sam:rho=0.2"),
        (("--opt", "sam", "--rho", "0.3"), "sam:rho=0.3"),
        (("--opt", "sam", "--config", "rho.toml"), "sam:rho=0.1"),
        (("--config", "both.toml"), "sam:rho=0.4"),
        (("--config", "both.toml", "--rho", "0.3"), "sam:rho=0.3"),
        (("--opt", "asam"), "asam:rho=0.5:eta=0.01:scope=weights"),
    ],
)
def test_the_users_radius_wins(printed, arguments, opt):
    Path("rho.toml").write_text("rho = 0.4\n")
    Path("both.toml").write_text('opt = "sam:rho=0.4"\n')
    assert printed(*SSAM, *arguments)["opt"] == opt


def test_a_preset_in_a_file_and_in_the_environment(printed, monkeypatch):
    Path("c.toml").write_text('preset = "ssam/cifar10/resnet18"\nopt = "sam"\n')
    assert printed("--config", "c.toml")["opt"] == "sam:rho=0.1"
    assert printed("--config", "c.toml", "--preset", "ssam/cifar100/resnet18")["opt"] == "sam:rho=0.2"
    monkeypatch.setenv("SHARPKIT_PRESET", "ssam/cifar100/wrn28-10")
    assert printed("--opt", "sgd")["wd"] == 5e-4
    assert printed("--config", "c.toml")["opt"] == "sam:rho=0.2"


def test_the_papers_own_method_is_the_default(printed):
    assert printed("--preset", "sampa/cifar10/resnet56")["opt"] == "sampa:rho=0.1:lam=0.2:y_step=peek"


def test_what_was_resolved_is_fed_back_as_it_is(sharpkit, printed):
    arguments = ("train", "--print-config", *HERE, *SSAM, "--opt", "sam:rho=0.3", "--lr", "0.2")
    first = sharpkit(*arguments)
    assert "preset" not in tomllib.loads(first.stdout)
    Path("c.toml").write_text(first.stdout)
    assert sharpkit("train", "--print-config", "--config", "c.toml").stdout == first.stdout
    again = sharpkit("train", "--print-config", "--config", "c.toml", *SSAM)
    assert again.stdout == first.stdout


def test_a_run_is_done_again_from_its_configuration(sharpkit):
    assert sharpkit("train", *SSAM, *HERE, "--opt", "sam", "--out", "a").code == 0
    text = Path("a/config.toml").read_text()
    assert text.startswith("# preset ssam/cifar10/resnet18\n")
    assert tomllib.loads(text)["wd"] == 1e-3
    assert sharpkit("train", "--config", "a/config.toml", "--out", "b").code == 0
    first, second = (json.loads(Path(run, "summary.json").read_text()) for run in "ab")
    assert first["args"] == second["args"]
    assert first["metrics"]["train_loss"] == second["metrics"]["train_loss"]


def test_a_run_goes_on_with_its_preset_and_not_with_another(sharpkit):
    common = ("train", *HERE, "--opt", "sam")
    assert sharpkit(*common, *SSAM, "--out", "r").code == 0
    assert sharpkit(*common, *SSAM, "--resume", "r").code == 0
    assert sharpkit(*common, *SSAM, "--out", "r", "--resume", "auto").code == 0
    other = sharpkit(*common, "--preset", "aesam/cifar10/resnet18", "--resume", "r")
    assert other.code == 2
    assert "the run was started with" in other.told


def test_the_start_of_a_run_names_preset_paper_and_values(sharpkit, terminal):
    done = sharpkit("train", *SSAM, *HERE, "--opt", "sam")
    notes = [line for line in done.stderr.splitlines() if line.startswith("preset ")]
    assert len(notes) == 1
    assert "Mi et al. (2022)" in notes[0]
    assert "opt=sam:rho=0.1" in notes[0]
    assert "yours: data, model, epochs" in notes[0]
    assert done.stdout.count("\n") == 1
    assert "preset ssam/cifar10/resnet18, Mi et al. (2022)" in plain(
        terminal("train", *SSAM, *HERE, "--opt", "sam").stderr
    )
    assert sharpkit("train", *SSAM, *HERE, "-q").stderr == ""


@pytest.mark.parametrize("mode", ["-n", "--print-config"])
def test_a_dry_run_tells_it_too_and_only_verbose_tells_every_source(sharpkit, mode):
    brief, long = (sharpkit("train", *SSAM, *HERE, "--opt", "sam", mode, *more) for more in ((), ("-v",)))
    assert brief.stdout == long.stdout
    assert brief.stderr.count("\n") == 1
    assert "lr = 0.05  # Mi et al. (2022), section 5.1" in long.stderr.splitlines()
    assert "opt = sam:rho=0.1  # rho: Mi et al. (2022), section 5.1 and table 5" in long.stderr.splitlines()
    assert "epochs = 1" in long.stderr.splitlines()


def test_the_suggested_next_run_has_the_preset_and_what_was_asked_for(sharpkit):
    done = sharpkit("train", *SSAM, *HERE, "--opt", "sam", "--seed", "3")
    assert done.stderr.splitlines()[-1] == (
        "next: sharpkit train --opt sgd --preset ssam/cifar10/resnet18 --data digits --limit 200 --model cnn "
        "--epochs 1 --seed 3 --threads 1  # the baseline to compare with"
    )
    resumed = sharpkit("train", "--resume", "runs/digits-cnn-sam_rho=0.1-s3")
    assert resumed.stderr.splitlines()[-1] == done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("ssam/cifar10/resnet81", "did you mean 'ssam/cifar10/resnet18'? see sharpkit ls presets"),
        ("nope", "see sharpkit ls presets"),
    ],
)
@pytest.mark.parametrize("where", ["flag", "file"])
def test_a_preset_that_does_not_exist(fails, name, hint, where):
    Path("c.toml").write_text(f'preset = "{name}"\n')
    told = fails(2, "train", *(("--preset", name) if where == "flag" else ("--config", "c.toml")))
    assert told == f"sharpkit: unknown preset '{name}'; {hint}"


@pytest.mark.parametrize("preset", ["sampa/cifar10/wrn28-2", "asam/cifar100/wrn28-10", "ssam/imagenet/resnet50"])
def test_a_preset_whose_data_are_not_here_says_where_they_are_looked_for(sharpkit, preset):
    done = sharpkit("train", "--preset", preset, "--data-dir", "nowhere", "-n")
    assert done.code == 3
    data = preset.split("/")[1]
    assert f"the data set {data} is missing: there is no " in done.told
    assert f" in nowhere/{data} or nowhere; put " in done.told
    assert not Path("nowhere").exists()


def test_a_wrong_preset_and_the_list_do_not_wait_for_torch():
    done = alone(
        "import sys\nfrom sharpkit.cli.main import run\nrun(['train', '--preset', 'x'])\nrun(['ls', 'presets'])\n"
        "print('torch' in sys.modules)"
    )
    assert done.stdout.splitlines()[-1] == "False", done.stderr


# ---------------------------------------------------------------------- the list


def test_on_a_pipe_a_row_for_every_value(sharpkit):
    header, *rows = [line.split("\t") for line in sharpkit("ls", "presets").stdout.splitlines()]
    assert header == ["preset", "option", "value", "origin", "source"]
    assert {len(row) for row in rows} == {5}
    assert all(all(row) for row in rows)
    assert list(dict.fromkeys(row[0] for row in rows)) == list(PRESETS)
    assert ["ssam/cifar10/resnet18", "sgd:wd", "0.0005", "paper", "Mi et al. (2022), section 5.1"] in rows
    assert len({(row[0], row[1]) for row in rows}) == len(rows)


def test_on_a_terminal_a_row_for_every_preset_in_80_columns(terminal):
    lines = plain(terminal("ls", "presets", on=("stdout",)).stdout).splitlines()
    assert max(len(line) for line in lines) <= 80
    assert len(lines) == len(PRESETS) + 4
    assert all(name in line for name, line in zip(PRESETS, lines[3:], strict=False))
    assert "Mi 2022" in lines[3]
    assert "ssam-f, lr 0.05, 200 epochs" in lines[3]


def test_as_a_document(sharpkit):
    document = sharpkit("ls", "presets", "--json").json
    assert (document["schema"], document["what"]) == ("sharpkit.ls/1", "presets")
    assert [item["name"] for item in document["items"]] == list(PRESETS)
    first = document["items"][0]
    assert first["opts"] == ["ssam-f", "ssam-d", "sam", "sgd"]
    assert first["paper"].startswith("Mi et al. (2022), Make Sharpness-Aware")
    source = "Mi et al. (2022), section 5.1"
    assert {"option": "lr", "value": 0.05, "origin": "paper", "source": source} in first["values"]

"""What goes to stdout and what to stderr, on a pipe, with --json, with -q, and on a terminal."""

import json
import re
import sys
import tomllib
from itertools import combinations
from pathlib import Path

import pytest
import torch

from sharpkit.errors import SharpkitError
from tests.cli.conftest import TINY, plain

COMMON = {"schema", "ok", "command", "version", "args", "seed", "device", "env", "cost", "files", "warnings"}
RUN = "runs/digits-mlp-sam-s0"


def test_on_a_pipe_stdout_is_the_path_and_stderr_a_line_an_epoch(train):
    done = train()
    assert (done.code, done.stdout) == (0, f"{RUN}/ckpt.pt\n")
    lines = done.stderr.splitlines()
    number = r"[\d.,]+"
    for epoch in (1, 2):
        pattern = (
            rf"epoch {epoch}/2  loss {number}  acc {number}%  val {number}%  SAM 100%  {number} samples/s  {number} s"
        )
        assert len([line for line in lines if re.fullmatch(pattern, line)]) == 1
    assert lines[-1].startswith("next: sharpkit train --opt sgd")
    assert len([line for line in lines if line.startswith("epoch")]) == 2
    assert "\x1b" not in done.stdout + done.stderr
    assert "\r" not in done.stdout + done.stderr


def test_quiet_prints_the_path_alone(train):
    done = train("-q")
    assert (done.code, done.stdout, done.stderr) == (0, f"{RUN}/ckpt.pt\n", "")


def test_the_files_of_a_run(train):
    train("--seed", "3", "--opt", "sampa:lam=0")
    folder = Path("runs/digits-mlp-sampa_lam=0-s3")
    names = ["ckpt.pt", "config.toml", "env.json", "metrics.jsonl", "seal.json", "summary.json"]
    assert sorted(p.name for p in folder.iterdir()) == names
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["epoch"], line["step"]) for line in lines] == [("epoch", 1, 2), ("epoch", 2, 4)]
    environment = json.loads((folder / "env.json").read_text())
    assert {"python", "torch", "cuda", "git", "device", "argv", "deterministic", "world_size"} <= set(environment)
    assert tomllib.loads((folder / "config.toml").read_text())["opt"] == "sampa:rho=0.1:lam=0.0:y_step=peek"


def test_json_is_one_document_with_the_common_keys(train):
    done = train("--json", "--label-noise", "0.25")
    document = done.json
    assert set(document) >= COMMON
    assert {"python", "torch", "cuda", "git"} <= set(document["env"])
    costs = {"grads", "grads_sequential", "forwards", "backwards", "wall_s", "peak_mb"}
    assert costs <= set(document["cost"])
    assert (document["schema"], document["ok"], document["command"]) == ("sharpkit.train/1", True, "train")
    assert (document["seed"], document["device"], document["args"]["label_noise"]) == (0, "cpu", 0.25)
    assert document["env"]["torch"] == torch.__version__
    assert all(Path(file).is_file() for file in document["files"])
    assert document == json.loads(Path(RUN, "summary.json").read_text())


def test_json_and_quiet_together(train):
    done = train("--json", "-q")
    assert done.json["ok"] is True
    assert done.stderr == ""


@pytest.mark.parametrize("options", [("--val-frac", "0")])
def test_a_number_that_does_not_exist_is_null_with_a_warning(train, options):
    document = train("--json", *options).json
    assert document["metrics"]["val_acc"] is None
    assert any("val" in warning for warning in document["warnings"])


@pytest.mark.parametrize(
    ("arguments", "code", "kind"),
    [
        (("train", "--lr", "-1"), 2, "usage"),
        (("train", "--lr", "x"), 2, "usage"),
        (("train", "--nope"), 2, "usage"),
        (("train", "--opt", "sampa+gnp"), 2, "conflict"),
        (("train", "--data", "nowhere.py:f"), 3, "input"),
        (("train", "--resume", "nowhere"), 3, "input"),
        (("train", *TINY, "--lr", "1e38"), 4, "diverged"),
        (("ls", "nope"), 2, "usage"),
        (("trian",), 2, "usage"),
    ],
)
def test_an_error_is_one_line_and_one_document(sharpkit, arguments, code, kind):
    done = sharpkit(*arguments, "--json")
    document = done.json
    assert (done.code, document["ok"], document["error"]["code"]) == (code, False, kind)
    assert set(document["error"]) == {"code", "message", "hint"}
    assert document["error"]["message"]
    assert document["error"]["hint"]
    assert document["error"]["message"] in done.told
    quiet = sharpkit(*arguments, "-q") if arguments[0] == "train" else sharpkit(*arguments)
    assert (quiet.code, quiet.stdout) == (code, "")
    assert quiet.told


def test_tracebacks_are_shown_on_request_and_change_nothing_else(sharpkit):
    done = sharpkit("train", "--lr", "-1", "--traceback", "--json")
    assert "Traceback" in done.stderr
    assert done.code == 2
    assert done.json["error"]["code"] == "usage"


@pytest.mark.parametrize("command", ["train", "ls"])
@pytest.mark.parametrize("options", [(), ("--dry-run",), ("--print-config",)])
def test_every_successful_document_has_the_common_keys(sharpkit, command, options):
    if command == "ls" and options:
        pytest.skip("ls has neither")
    arguments = (*TINY, *options) if command == "train" else ()
    document = sharpkit(command, *arguments, "--json").json
    keys = {"schema", "ok", "command", "version"} | ({"args", "seed", "device"} if command == "train" else set())
    assert keys <= set(document)


def test_what_a_users_file_prints_does_not_go_to_stdout(sharpkit):
    source = "from torch import nn\nprint('loading')\n\n\ndef f(shape, classes):\n    print('making')\n"
    Path("m.py").write_text(source + "    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))\n")
    done = sharpkit("train", "--epochs", "1", "--limit", "50", "--model", "m.py:f", "--json")
    assert done.json["ok"] is True
    assert sharpkit("train", "--epochs", "1", "--limit", "50", "--model", "m.py:f", "-q").stdout.count("\n") == 1


# ---------------------------------------------------------------------- a terminal


def test_a_person_gets_a_table_and_a_bar(terminal):
    done = terminal("train", *TINY)
    assert done.code == 0
    table = plain(done.stdout)
    assert {"test accuracy", "gradients", "checkpoint", f"{RUN}/ckpt.pt"} <= {
        cell.strip() for row in table.splitlines() for cell in row.split("│")
    }
    assert max(len(line) for line in table.splitlines()) <= 80
    assert "━" in done.stderr
    assert "100%" in done.stderr
    assert "next: sharpkit train" in done.stderr


def test_the_bar_shows_its_times_whole_on_80_columns(terminal):
    done = terminal("train", *TINY, on=("stderr",))
    assert "…" not in plain(done.stderr)


def test_no_progress_is_a_line_an_epoch_on_a_terminal_too(terminal):
    done = terminal("train", *TINY, "--no-progress")
    assert len(re.findall(r"^epoch \d/2 ", done.stderr, re.MULTILINE)) == 2
    assert "\x1b" not in done.stderr


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(terminal, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    done = terminal("train", *TINY)
    assert len(re.findall(r"^epoch \d/2 ", done.stderr, re.MULTILINE)) == 2
    assert "\x1b" not in done.stdout + done.stderr


def test_quiet_and_json_are_the_same_on_a_terminal(terminal):
    assert terminal("train", *TINY, "-q").stdout.strip() == f"{RUN}/ckpt.pt"
    done = terminal("train", *TINY, "--json")
    assert done.json["ok"] is True


@pytest.mark.parametrize("how", ["NO_COLOR", "--no-color"])
def test_without_colour_there_are_no_styles(terminal, monkeypatch, how):
    """A bar still moves the cursor; nothing else is a code."""
    if how == "NO_COLOR":
        monkeypatch.setenv(how, "1")
    done = terminal("train", *TINY, *([how] if how.startswith("--") else []))
    assert "\x1b" not in done.stdout
    assert not re.search(r"\x1b\[[0-9;]*m", done.stderr)


def test_stdout_on_a_terminal_alone(terminal, capsys):
    done = terminal("train", *TINY, on=("stdout",))
    assert "│" in done.stdout
    assert len(re.findall(r"^epoch \d/2 ", capsys.readouterr().err, re.MULTILINE)) == 2


# ---------------------------------------------------------------------- other commands


def test_ls(sharpkit, terminal):
    from sharpkit import RECIPES
    from sharpkit.data import DATASETS
    from sharpkit.models import FORMS, MODELS

    for what, table in (("opts", RECIPES), ("models", [*MODELS, *FORMS]), ("data", DATASETS)):
        header, *rows = [line.split("\t") for line in sharpkit("ls", what).stdout.splitlines()]
        assert [row[0] for row in rows] == list(table)
        assert {len(row) for row in rows} == {len(header)}
        document = sharpkit("ls", what, "--json").json
        assert [item["name"] for item in document["items"]] == list(table)
        shown = plain(terminal("ls", what, on=("stdout",)).stdout)
        assert all(name in shown for name in table)
        assert "│" in shown
    assert sharpkit("ls").stdout == sharpkit("ls", "opts").stdout


def test_ls_says_what_combines_with_what(sharpkit, terminal):
    """Of every pair whether SharpnessAware takes it, and if not, why."""
    from sharpkit import RECIPES
    from tests.core.support import net, sharp

    _, *rows = [line.split("\t") for line in sharpkit("ls", "unions").stdout.splitlines()]
    assert [row[0] for row in rows] == ["+".join(pair) for pair in combinations(RECIPES, 2)]
    for union, allowed, why in rows:
        try:
            sharp(f"{union}:rho=0.1" if set(union.split("+")) - {"sgd", "saf", "mesa"} else union, net("batch-norm"))
        except SharpkitError:
            assert (allowed, bool(why)) == ("no", True), union
        else:
            assert (allowed, why) == ("yes", ""), union
    items = {item["name"]: item for item in sharpkit("ls", "opts", "--json").json["items"]}
    apart = {name: set(item["not with"].split()) for name, item in items.items()}
    assert {f"{a}+{b}" for a, b in combinations(RECIPES, 2) if b in apart[a]} == {r[0] for r in rows if r[1] == "no"}
    assert "saf" in plain(terminal("ls", "unions", on=("stdout",)).stdout)


def test_version(sharpkit):
    from sharpkit import __version__

    assert sharpkit("--version").stdout == f"sharpkit {__version__}\n"


def test_no_arguments_show_the_help(sharpkit):
    done = sharpkit()
    assert "train" in done.stdout + done.stderr
    assert "sharpkit: ;" not in done.stderr


def test_verbose_tells_every_option_first(train):
    done = train("-v", "--seed", "4")
    assert "seed = 4" in done.stderr
    assert "epochs = 2" in done.stderr
    assert sys.stdout.isatty() is False

"""A checkpoint does not choose what code runs: files that it names need the user's word or the user's own training."""

import json
import os
import py_compile
import shutil
import sys
from pathlib import Path

import pytest
import torch

from tests.cli.conftest import MODEL, TINY, write

DIAGNOSTICS = {
    "hessian": ("--top", "1", "--no-density", "--trace", "none"),
    "landscape": ("--x=-1:1:3",),
    "sharpness": ("--samples", "20"),
    "graddiff": ("--batch-size", "32", "--batches", "1"),
    "gradnorm-qq": ("--batches", "8", "--batch-size", "8"),
}

MARKER = 'import pathlib\npathlib.Path("marker").touch()\n'

DATA = MARKER + "def d():\n    g = torch.Generator().manual_seed(0)\n    y = torch.arange(90) % 3\n    " \
    "return torch.randn(90, 1, 8, 8, generator=g) + y[:, None, None, None], y\n"  # fmt: skip

BASE = MARKER + "class Own(torch.optim.SGD):\n    pass\n"


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    """A state directory in which nothing is recorded yet."""
    monkeypatch.setenv("SHARPKIT_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def ran():
    """Return whether the user's file ran since the last look."""

    def look():
        there = Path("marker").exists()
        Path("marker").unlink(missing_ok=True)
        return there

    return look


def forget(state):
    """As on another machine: the run is there, and no record of it."""
    shutil.rmtree(state)


@pytest.fixture
def theirs(train, state, ran):
    """A downloaded run whose checkpoint names a model beside it, which nobody here has trained with."""
    write(MARKER + MODEL, "theirs/net.py")
    assert train("--model", "theirs/net.py:f", "--out", "theirs/run").code == 0
    assert ran(), "the marker shows that the file ran"
    forget(state)
    return "theirs/run"


@pytest.mark.parametrize("command", DIAGNOSTICS)
def test_diagnostics_do_not_run_a_file_that_a_checkpoint_names(sharpkit, fails, theirs, ran, command):
    words = (command, theirs, *DIAGNOSTICS[command], "--threads", "1", "--no-plot", "-q")
    told = fails(3, *words)
    assert "theirs/run/ckpt.pt names --model theirs/net.py:f, which would run f of " in told
    assert str(Path("theirs/net.py").resolve()) in told
    assert "give --model theirs/net.py:f if you trust that code, or --trust-code" in told
    assert not ran()
    fails(3, *words, "--dry-run")
    assert not ran()
    assert sharpkit(*words, "--trust-code").code == 0
    assert ran()
    assert sharpkit(*words, "--model", "theirs/net.py:f").code == 0
    assert ran()
    fails(3, *words)  # neither of the two is a permission for the next call
    assert not ran()


def test_resume_does_not_run_a_file_that_a_checkpoint_names(sharpkit, fails, theirs, ran):
    for words in (("--resume", theirs), ("--resume", f"{theirs}/ckpt.pt"), ("--resume", theirs, "--dry-run")):
        assert "names --model theirs/net.py:f" in fails(3, "train", *words)
        assert not ran()
    assert sharpkit("train", "--resume", theirs, "--trust-code").code == 0
    assert ran()
    fails(3, "train", "--resume", theirs)
    assert not ran()
    assert sharpkit("train", "--resume", theirs, "--model", "theirs/net.py:f").code == 0
    assert ran()
    assert sharpkit("train", "--resume", theirs).code == 0, "training with the file, by its name, is recorded"


def test_resume_auto_finds_the_run_by_the_names_that_the_user_gives(train, theirs, ran):
    assert train("--resume", "auto", "--model", "theirs/net.py:f", "--out", theirs).code == 0
    assert ran()


def test_an_environment_variable_is_no_permission_to_resume(fails, theirs, ran, monkeypatch):
    monkeypatch.setenv("SHARPKIT_MODEL", "theirs/net.py:f")
    fails(3, "train", "--resume", theirs)
    assert not ran()


def test_compare_from_runs_nothing(sharpkit, theirs, ran):
    done = sharpkit("compare", "--from", theirs)
    assert (done.code, ran()) == (0, False), done.stderr


def test_resume_does_not_run_data_or_a_base_optimizer_that_a_checkpoint_names(train, fails, state, ran):
    write(DATA, "theirs/data.py")
    assert train("--data", "theirs/data.py:d", "--out", "a").code == 0
    write(BASE, "their_base.py")
    assert ran()
    assert train("--base", "their_base:Own", "--out", "b").code == 0
    assert ran()
    forget(state)
    assert "names --data theirs/data.py:d" in fails(3, "train", "--resume", "a")
    assert "names --data theirs/data.py:d" in fails(3, "hessian", "a")
    assert "names --base their_base:Own, which would run Own of " in fails(3, "train", "--resume", "b")
    assert not ran()


def test_a_permission_for_one_name_is_none_for_another(fails, train, state, ran):
    write(DATA, "data.py")
    write('import pathlib\npathlib.Path("model-ran").touch()\n' + MODEL.replace("10", "3"), "net.py")
    assert train("--data", "data.py:d", "--model", "net.py:f", "--out", "r").code == 0
    forget(state)
    Path("model-ran").unlink()
    assert "names --model net.py:f" in fails(3, "hessian", "r", "--data", "data.py:d")
    assert ran()
    assert not Path("model-ran").exists()


def test_a_users_own_training_is_a_permission_until_the_file_changes(train, sharpkit, fails, state):
    write(MODEL)
    assert train("--model", "u.py:f", "--out", "r").code == 0
    words = ("sharpness", "r", "--samples", "20", "--threads", "1", "--no-plot", "-q")
    assert sharpkit(*words).code == 0
    assert sharpkit("train", "--resume", "r").code == 0
    write(MODEL + "\n# edited\n")
    told = fails(3, *words)
    assert "has changed since you trained with it" in told
    assert sharpkit(*words, "--model", "u.py:f").code == 0
    write(MODEL)
    assert sharpkit(*words).code == 0


def test_a_record_is_of_one_file_and_one_function(train, sharpkit, fails):
    """A checkpoint cannot call another function of a file that the user trained with, nor a copy of the file."""
    write(MODEL + "\n\ndef other(shape, classes):\n    return f(shape, classes)\n")
    assert train("--model", "u.py:f", "--out", "r").code == 0
    for number, name in enumerate(("u.py:other", "copy/u.py:f")):
        Path("copy").mkdir(exist_ok=True)
        shutil.copy("u.py", "copy/u.py")
        renamed(Path("r"), Path(f"r{number}"), model=name)
        assert f"names --model {name}" in fails(3, "hessian", f"r{number}")


def renamed(run, out, **names):
    """Copy a run, with other names in its checkpoint."""
    shutil.copytree(run, out)
    content = torch.load(out / "ckpt.pt", weights_only=True)
    for part in ("config", "asked"):
        content[part] |= names
    torch.save(content, out / "ckpt.pt")


def test_a_downloaded_folder_does_not_vouch_for_itself(train, fails, theirs, ran, state, monkeypatch):
    """The records that its maker's training wrote come along in every place that a program might look at."""
    assert train("--model", "theirs/net.py:f", "--out", "again").code == 0
    assert ran()
    for place in (
        "theirs",
        "state/sharpkit",
        "theirs/run",
        "theirs/run/state",
        ".",
        "theirs/.local/state/sharpkit",
        ".local/state/sharpkit",
    ):
        shutil.copytree(state, place, dirs_exist_ok=True)
    forget(state)
    monkeypatch.delenv("SHARPKIT_STATE_DIR")
    monkeypatch.setenv("HOME", str(state.parent / "home"))
    monkeypatch.setenv("XDG_STATE_HOME", "state")  # relative, hence to be ignored
    assert "names --model" in fails(3, "hessian", theirs)
    assert not ran()
    monkeypatch.setenv("SHARPKIT_STATE_DIR", "theirs/run/state")
    assert "SHARPKIT_STATE_DIR is theirs/run/state, allowed is an absolute path" in fails(2, "hessian", theirs)
    assert not ran()


def test_options_in_a_checkpoint_are_no_permission(fails, theirs, ran):
    content = torch.load(f"{theirs}/ckpt.pt", weights_only=True)
    for name in ("trust_code", "trust-code"):
        content["config"] |= {name: True}
        torch.save(content, f"{theirs}/ckpt.pt")
        fails(2, "hessian", theirs)
        assert not ran()
        del content["config"][name]


@pytest.mark.parametrize("name", ["torch.optim:RMSprop", "timm.optim:Lamb", "pytorch_optimizer:Lion"])
def test_optimizers_of_known_libraries_need_no_permission(train, sharpkit, state, name):
    pytest.importorskip(name.partition(":")[0].partition(".")[0])
    assert train("--base", name, "--lr", "0.001", "--out", "r").code == 0
    assert not state.exists()
    assert sharpkit("train", "--resume", "r").code == 0


@pytest.mark.parametrize("name", ["torch.hub:load", "torch:load", "os:system", "builtins:exec", "subprocess:Popen"])
def test_a_checkpoint_cannot_call_functions_of_libraries(train, fails, name):
    assert train("--out", "r").code == 0
    renamed(Path("r"), Path("s"), base=name)
    assert f"names --base {name}, which would run" in fails(3, "train", "--resume", "s")


@pytest.mark.slow
def test_a_file_named_as_a_library_is_not_taken_for_it(process, train):
    """In a process of its own, where timm is not imported yet and the current folder is a downloaded one."""
    assert train("--base", "timm.optim:Lamb", "--out", "r").code == 0
    names = ("timm", "scipy", "sklearn", "torchvision", "matplotlib")
    for name in names:
        write(MARKER, f"{name}.py")
    done = process("sharpkit train --resume r", PYTHONSAFEPATH="1")  # as the installed program: -c adds the folder
    assert not Path("marker").exists(), done.stderr
    assert done.code == 0, done.stderr
    for name in names[1:]:
        Path(f"{name}.py").unlink()
    done = process("sharpkit train --resume r")
    assert "names --base timm.optim:Lamb" in done.told
    assert not Path("marker").exists()


def test_the_file_that_is_checked_is_the_file_that_runs(train, sharpkit, ran):
    """A compiled form beside the file is not read, so it cannot differ from what was checked."""
    write(MODEL)
    assert train("--model", "u.py:f", "--out", "r").code == 0
    assert not Path("__pycache__").exists()
    write(MARKER + MODEL, "other.py")
    target = Path("__pycache__") / f"u.{sys.implementation.cache_tag}.pyc"
    py_compile.compile("other.py", str(target), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    assert sharpkit("train", "--resume", "r").code == 0
    assert not ran()


@pytest.mark.parametrize("how", ["file", "read-only"])
def test_a_state_directory_that_cannot_be_written_is_told_and_not_fatal(train, fails, state, how):
    write(MODEL)
    if how == "file":
        state.write_text("no folder")
    elif os.geteuid() == 0:
        pytest.skip("root writes everywhere")
    else:
        state.mkdir(mode=0o500)
    done = train("--model", "u.py:f", "--out", "r")
    assert done.code == 0
    assert "could not be recorded" in done.stderr
    assert "--trust-code" in fails(3, "hessian", "r")


def test_a_run_without_code_of_the_user_records_nothing(train, state):
    done = train("--out", "r")
    assert (done.code, state.exists()) == (0, False)
    assert "recorded" not in done.stderr


def test_trust_code_is_refused_where_it_means_nothing(fails):
    assert "there is no --resume" in fails(2, "train", "--trust-code", *TINY)


def test_a_dry_run_records_nothing(train, state):
    write(MODEL)
    assert train("--model", "u.py:f", "--dry-run").code == 0
    assert not state.exists()


@pytest.mark.slow
def test_a_comparison_records_the_files_of_its_runs_and_measures_them(sharpkit, process, state):
    write(MODEL)
    words = "compare sgd sam --seeds 1 --epochs 1 --limit 60 --model u.py:f --sharpness lambda --jobs 1 --threads 1"
    done = process(f"sharpkit {words} --json", SHARPKIT_STATE_DIR=str(state))
    assert done.code == 0, done.stderr
    folder = next(Path("runs/compare").glob("sam-*"))
    assert "lambda" in json.loads((folder / "sharpness.json").read_text())
    assert sharpkit("sharpness", folder, "--samples", "20", "--threads", "1", "--no-plot", "-q").code == 0

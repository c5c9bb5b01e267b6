"""What was measured is told whatever becomes of its files, and a signal is told whenever it comes."""

import json
import os
import signal
from pathlib import Path

import pytest

from sharpkit.cli import main, signals
from tests.cli.conftest import plain

SHORT = ("graddiff", "--threads", "1", "--batches", "2", "-b", "32", "--no-plot")


def test_the_folder_of_a_file_is_made(sharpkit, run_dir):
    done = sharpkit(*SHORT, run_dir, "-o", "new/folder/found.csv")
    assert done.code == 0, done.stderr
    assert Path("new/folder/found.csv").read_text().startswith("ckpt,")


def test_a_place_that_cannot_be_is_refused_before_anything_is_measured(fails, run_dir, monkeypatch):
    monkeypatch.setattr("sharpkit.commands.measure.loaded", None)
    Path("file").write_text("")
    assert "cannot write file/found.npz" in fails(3, *SHORT, run_dir, "-o", "file/found.npz")


@pytest.mark.parametrize("form", ["json", "tsv"])
def test_what_cannot_be_written_is_told(sharpkit, run_dir, form):
    Path("found.npz").mkdir()
    done = sharpkit(*SHORT, run_dir, "-o", "found.npz", *(["--json"] if form == "json" else []))
    assert done.code == 3
    assert done.stderr.count("sharpkit: cannot write found.npz") == 1
    if form == "json":
        document = json.loads(done.stdout)
        assert (document["ok"], document["error"]["code"], document["files"]) == (False, "input", [])
        assert document["results"][0]["ckpt"] == "r"
    else:
        assert done.stdout.splitlines()[1].startswith("r\t")


def test_a_single_checkpoint_that_is_missing_is_told_once(sharpkit):
    done = sharpkit(*SHORT, "nowhere", "--json")
    assert (done.code, json.loads(done.stdout)["error"]["code"]) == (3, "input")
    assert plain(done.stderr).count("nowhere does not exist") == 1


def test_fewer_samples_than_were_asked_for_are_told(sharpkit, run_dir):
    done = sharpkit("sharpness", "--threads", "1", "--steps", "1", "--samples", "100000", "--no-plot", run_dir)
    assert done.code == 0, done.stderr
    assert "samples, which are all that there are" in done.stderr


def test_a_signal_before_anything_is_measured(sharpkit, run_dir, monkeypatch):
    monkeypatch.setattr(main, "app", lambda **_: signal.raise_signal(signal.SIGTERM))
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        signals.end_on_sigterm()
        done = sharpkit("hessian", run_dir, "--json")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert done.code == 143
    assert json.loads(done.stdout)["error"]["code"] == "interrupted"
    assert done.stderr == "sharpkit: stopped before the end; start it again\n"


def test_what_the_caller_ignores_stays_ignored():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        signals.end_on_sigterm()
        os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_word_that_is_not_known_is_repeated_once(fails):
    told = fails(2, "ls", "nope")
    assert told.count("nope") == 1
    assert "Value error" not in told

"""`sharpkit hessian`: tables, files, JSON, several checkpoints, backends, exit codes."""

import io
import json
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sharpkit.commands import hessian as command
from tests.cli.conftest import plain

FAST = ("--threads", "1", "--samples", "60", "--steps", "12", "--tol", "1e-3")


def test_a_pipe_gets_a_line_a_checkpoint_and_the_files_are_written(sharpkit, run_dir):
    done = sharpkit("hessian", run_dir, *FAST)
    assert done.code == 0, done.stderr
    header, row = [line.split("\t") for line in done.stdout.splitlines()]
    values = dict(zip(header, row, strict=True))
    assert values["ckpt"] == "r"
    assert values["converged"] == "5/5"
    assert float(values["lambda1"]) >= float(values["lambda5"]) > 0
    assert float(values["ratio"]) == pytest.approx(float(values["lambda1"]) / float(values["lambda5"]), rel=1e-4)
    held = np.load(run_dir / "ckpt-hessian.npz")
    assert held["eigenvalues"][0] == pytest.approx(float(values["lambda1"]), rel=1e-6)
    assert held["weights0"].sum() == pytest.approx(1)
    assert (run_dir / "ckpt-hessian.png").read_bytes().startswith(b"\x89PNG")


def test_json_is_one_document(sharpkit, run_dir):
    document = sharpkit("hessian", run_dir / "ckpt.pt", *FAST, "--json", "--no-plot", "--both-ends", "-k", "3").json
    common = {"schema", "ok", "command", "version", "args", "seed", "device", "env", "cost", "files", "warnings"}
    assert common <= set(document)
    assert document["schema"] == "sharpkit.hessian/1"
    (result,) = document["results"]
    assert result["lambda1"] == result["eigenvalues"][0]
    assert len(result["smallest"]["eigenvalues"]) == 3
    assert isinstance(result["none_missing"], bool)
    assert (result["samples"], result["bn_mode"], result["augmentation"]) == (60, "eval", "none")
    assert sum(p["value"] for p in result["trace"]["parameters"].values()) == pytest.approx(result["trace"]["value"])
    assert sum(result["density"]["runs"][0]["weights"]) == pytest.approx(1)


def test_copies_are_looked_for_unless_told_not_to(sharpkit, run_dir):
    looked, not_looked = (
        sharpkit("hessian", run_dir, *FAST, "--json", "--no-plot", "--no-density", "--trace", "none", *more).json
        for more in ((), ("--no-copies",))
    )
    assert looked["results"][0]["none_missing"] is True
    assert not_looked["results"][0]["none_missing"] is None
    assert looked["cost"]["products"] > not_looked["cost"]["products"]
    assert looked["results"][0]["eigenvalues"] == pytest.approx(not_looked["results"][0]["eigenvalues"], rel=1e-3)


def test_several_checkpoints_from_stdin_share_a_figure(sharpkit, run_dir, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("r/ckpt.pt\n"))
    done = sharpkit("hessian", "-", "r", *FAST, "-o", "f.svg")
    assert done.code == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3
    text = Path("f.svg").read_text()
    assert "<svg" in text
    assert set(np.load("f.npz")["ckpt"]) == {"r", "r/ckpt.pt"}


@pytest.mark.slow
@pytest.mark.usefixtures("run_dir")
def test_names_of_checkpoints_come_through_a_pipe(process):
    done = process(f"ls r | grep ckpt.pt | sed 's:^:r/:' | sharpkit hessian - r {' '.join(FAST)} --no-plot")
    assert done.code == 0, done.stderr
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["ckpt", "r/ckpt.pt", "r"]


def test_a_table_for_a_person(terminal, run_dir):
    done = terminal("hessian", run_dir, *FAST, "--no-plot", "--error-bars", "--per-layer")
    shown = plain(done.stdout)
    assert done.code == 0
    assert "lambda 1 / lambda 5" in shown
    assert "batch norm in eval mode" in " ".join(shown.split())
    assert "diagonal blocks" in shown
    assert max(len(line) for line in shown.splitlines()) <= 80


def test_the_backends_agree(sharpkit, run_dir):
    found = {}
    for backend in ("lanczos", "scipy"):
        options = ("--no-density", "--trace", "none", "--no-plot", "--tol", "1e-5", "--backend", backend)
        found[backend] = sharpkit("hessian", run_dir, *FAST, *options, "--json").json["results"][0]
    np.testing.assert_allclose(found["scipy"]["eigenvalues"], found["lanczos"]["eigenvalues"], rtol=1e-4)


def test_pyhessian_says_its_own_numbers_with_our_residuals(sharpkit, run_dir):
    pytest.importorskip("pyhessian")
    done = sharpkit("hessian", run_dir, *FAST, "--backend", "pyhessian", "--json", "--no-plot", "--trace", "none")
    theirs = done.json["results"][0]
    ours = sharpkit("hessian", run_dir, *FAST, "--json", "--no-plot", "--trace", "none").json["results"][0]
    assert theirs["lambda1"] == pytest.approx(ours["lambda1"], rel=0.05)
    assert min(theirs["residuals"]) > max(ours["residuals"])
    assert sum(theirs["density"]["runs"][0]["weights"]) == pytest.approx(1, abs=1e-5)


def test_csv_and_options_from_a_file(sharpkit, run_dir):
    Path("c.toml").write_text("top = 2\ndensity = false\ntrace = 'none'\nsamples = '50'\n")
    assert sharpkit("hessian", run_dir, "--config", "c.toml", "--threads", "1", "-o", "t.csv").code == 0
    lines = Path("t.csv").read_text().splitlines()
    assert lines[0] == "ckpt,number,eigenvalue,residual,converged,standard_error"
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("code", "options"),
    [
        (2, ("--top", "0")),
        (2, ("--samples", "many")),
        (2, ("--memory", "lots")),
        (2, ("--params", "nothing")),
        (2, ("--out", "x.txt")),
        (2, ("--ggn", "--matrix", "fisher")),
        (2, ("--block", "2")),
        (2, ("--backend", "pyhessian", "--ggn")),
        (3, ("--data", "nowhere.py:f")),
    ],
)
def test_bad_options(fails, run_dir, code, options):
    fails(code, "hessian", run_dir, "--threads", "1", *options)


def test_bad_checkpoints(sharpkit, fails, run_dir):
    fails(3, "hessian", "nowhere")
    Path("broken.pt").write_bytes(b"nothing")
    fails(3, "hessian", "broken.pt")
    partial = sharpkit("hessian", run_dir, "nowhere", *FAST, "--json", "--no-plot")
    assert partial.code == 5
    assert partial.json["ok"] is False
    assert [f["ckpt"] for f in partial.json["failed"]] == ["nowhere"]
    assert len(partial.json["results"]) == 1


def test_a_plain_state_dict_needs_data_and_model(fails, sharpkit, run_dir):
    state = torch.load(run_dir / "ckpt.pt", weights_only=True)
    torch.save(state["model"], "plain.pt")
    assert "--data and --model" in fails(2, "hessian", "plain.pt")
    model = state["config"]["model"]
    done = sharpkit("hessian", "plain.pt", "--data", "digits", "--model", model, *FAST, "--no-plot")
    assert done.code == 0, done.stderr


def test_ctrl_c_gives_what_has_converged(sharpkit, run_dir, monkeypatch):
    class Interrupted(command.Quiet):
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def product(self, products, largest):
            if products == 30:
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("sharpkit.cli.spectrum_progress.SpectrumProgress", lambda _: Interrupted())
    done = sharpkit("hessian", run_dir, "--threads", "1", "--json", "--no-plot", "--steps", "90")
    document = json.loads(done.stdout)
    assert done.code == 130
    assert document["results"][0]["complete"] is False
    assert document["results"][0]["products"] == 30
    assert sum(document["results"][0]["density"]["runs"][0]["weights"]) == pytest.approx(1)
    assert "stopped by SIGINT" in done.stderr


def test_help_does_not_import_torch(process):
    done = process("""python - <<'END'
import sys
from sharpkit.cli.main import run
run(["hessian", "--help"])
assert "torch" not in sys.modules and "matplotlib" not in sys.modules
END""")
    assert done.code == 0, done.stderr

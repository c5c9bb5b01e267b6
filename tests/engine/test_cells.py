"""The cells of a comparison: values, names, and what makes a run another one."""

from pathlib import Path

import pytest

from sharpkit.engine.cells import grid, listed, seeds_of
from sharpkit.errors import UsageError


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("5", [0, 1, 2, 3, 4]), ("1,4,7", [1, 4, 7]), ("7,", [7]), ("2-5", [2, 3, 4, 5]), (" 3 - 3 ", [3])],
)
def test_seeds(text, seeds):
    assert seeds_of(text) == seeds


@pytest.mark.parametrize("text", ["0", "-3", "", "a", "1,1", "5-2", "1.5", "1,-2", "1000000000", "0-1000000000", ","])
def test_seeds_that_are_none(text):
    with pytest.raises(UsageError, match="seeds is"):
        seeds_of(text)


@pytest.mark.parametrize(
    ("name", "given", "values"),
    [
        ("lr", "0.1,0.05", [0.1, 0.05]),
        ("lr", "1e-3", [0.001]),
        ("limit", "100,200", [100, 200]),
        ("epochs", 3, [3]),
        ("model", "mlp,cnn", ["mlp", "cnn"]),
        ("label_noise", [0, 0.4], [0.0, 0.4]),
        ("probe", "grad-norm,grad-var", ["grad-norm,grad-var"]),
        ("data_dir", "a,b", ["a,b"]),
        ("nesterov", True, [True]),
        ("rho_sched", "constant,with-lr", ["constant", "with-lr"]),
        ("save_every", "2", ["2"]),
    ],
)
def test_values_have_the_type_of_their_option(name, given, values):
    assert listed(name, given) == values
    assert [type(v) for v in listed(name, given)] == [type(v) for v in values]


@pytest.mark.parametrize(
    ("name", "given"),
    [("lr", "0.1,a"), ("lr", "0.1,0.10"), ("epochs", "1.5"), ("amp", "fp8"), ("model", "mlp,mlp"), ("lr", []),
     ("epochs", [1, "a"])],
)  # fmt: skip
def test_values_that_are_not_allowed(name, given):
    with pytest.raises(UsageError, match=name):
        listed(name, given)


def test_a_grid_is_settings_then_recipes_then_seeds():
    cells = grid(["sgd", "sam:rho=0.1,0.2"], {"label_noise": "0,0.4", "epochs": "2"}, [0, 3])
    assert len(cells) == 2 * 3 * 2
    assert [(c.label, dict(c.settings), c.seed) for c in cells[4:8]] == [
        ("sam:rho=0.2", {"label_noise": "0"}, 0),
        ("sam:rho=0.2", {"label_noise": "0"}, 3),
        ("sgd", {"label_noise": "0.4"}, 0),
        ("sgd", {"label_noise": "0.4"}, 3),
    ]
    assert {c.config.epochs for c in cells} == {2}
    assert cells[-1].config.label_noise == 0.4
    assert cells[-1].config.seed == 3


def test_the_same_cell_twice_is_refused():
    with pytest.raises(UsageError, match="sgd is there twice"):
        grid(["sgd", "sam", "sgd"], {}, [0])


def names(**given):
    return [cell.name for cell in grid(["sam"], given, [0])]


def test_names_differ_where_runs_do_and_are_safe_in_a_path():
    assert names() == names(threads="1", device="cpu", data_dir="/else where")
    assert len({*names(), *names(epochs="3"), *names(momentum="0.5")}) == 3
    (name,) = names(model="/a b/c'd.py:f")
    assert name == names(model="/a b/c'd.py:f")[0]
    assert not set(name) & set(" /'\"$")
    (long,) = grid(["ssam-f:sparsity=" + "0" * 200], {}, [0])
    assert len(long.name) < 160


def test_another_content_of_a_users_file_is_another_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text("def f(): pass")
    first = names(model="net.py:f")
    assert names(model="net.py:f") == first
    Path("net.py").write_text("def f(): return 1")
    assert names(model="net.py:f") != first

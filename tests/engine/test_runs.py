"""Runs that lie anywhere, brought together by recipe, setting and seed."""

import pytest

from sharpkit.engine.runs import collected
from sharpkit.errors import InputError
from tests.engine.finished import finished


def places(runs):
    return [(run.label, dict(run.settings), run.seed) for run in runs]


def test_runs_in_folders_below_and_by_file(tmp_path):
    finished(tmp_path / "a/one", "sam", 1)
    finished(tmp_path / "b/c/two", "sgd", 0)
    notes = []
    expected = [("sgd", {}, 0), ("sam", {}, 1)]
    assert places(collected([tmp_path], notes)) == expected
    assert places(collected([tmp_path / "a/one/ckpt.pt", tmp_path / "b"], notes)) == expected
    assert notes == []


def test_options_that_vary_are_settings_sorted_as_numbers(tmp_path):
    for i, noise in enumerate((0.05, 0.4, 0.2)):
        for opt in ("sgd", "sam"):
            finished(tmp_path / f"{opt}{i}", opt, label_noise=noise)
    found = [(run.label, run.settings) for run in collected([tmp_path], [])]
    assert found == [(o, (("label_noise", n),)) for n in ("0.05", "0.2", "0.4") for o in ("sgd", "sam")]


def test_labels_leave_out_defaults_that_all_share(tmp_path):
    for i, opt in enumerate(("sam", "sampa:lam=0.1", "sampa:lam=0.2", "gnp:alpha=0.7")):
        finished(tmp_path / str(i), opt)
    assert [run.label for run in collected([tmp_path], [])] == [
        "gnp:alpha=0.7",
        "sam",
        "sampa:lam=0.1",
        "sampa:lam=0.2",
    ]


def test_an_option_that_belongs_to_the_recipe_is_told_and_no_setting(tmp_path):
    finished(tmp_path / "a", "sgd", epochs=40)
    finished(tmp_path / "b", "sam", epochs=20)
    notes = []
    assert places(collected([tmp_path], notes)) == [("sgd", {}, 0), ("sam", {}, 0)]
    assert notes == ["epochs differs between the optimizers: sgd 40, sam:rho=0.05 20"]


def test_what_is_passed_over_is_told(tmp_path):
    finished(tmp_path / "a")
    finished(tmp_path / "b")
    finished(tmp_path / "c", seed=1)
    (tmp_path / "c/summary.json").write_text("{}")
    finished(tmp_path / "d", seed=2)
    (tmp_path / "d/seal.json").unlink()
    finished(tmp_path / ".pilots/e", seed=3)
    notes = []
    found = collected([tmp_path], notes)
    assert places(found) == [("sgd", {}, 0), ("sgd", {}, 1), ("sgd", {}, 2)]
    assert [(run.lost, bool(run.summary)) for run in found] == [(None, True), ("missing", False), ("missing", False)]
    assert notes == [
        f"passed over: {tmp_path}/c has another summary.json than it ended with",
        f"passed over: {tmp_path}/d is not finished",
        f"passed over: {tmp_path}/b is the same as {tmp_path}/a, with the same seed",
    ]


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match="no finished run"):
        collected([tmp_path], [])
    with pytest.raises(InputError, match="does not exist"):
        collected([tmp_path / "no"], [])

"""`--select val` chooses over equal seeds, what diverged last, and says what it passed over."""

import csv
import io

import pytest

from tests.cli.test_compare_lost import unfinished
from tests.engine.finished import finished


@pytest.fixture
def choose(sharpkit, tmp_path):
    """Return the chosen recipe and what was said, for the validation accuracies of each radius by seed."""

    def call(grid, diverged=()):
        for rho, of in grid.items():
            for seed, val in of.items():
                finished(tmp_path / f"{rho}-{seed}", f"sam:rho={rho}", seed, 0.5, val_acc=val)
        for rho, seed in diverged:
            unfinished(tmp_path / f"{rho}-{seed}", f"sam:rho={rho}", seed)
        finished(tmp_path / "sgd", "sgd", 0, 0.4)
        done = sharpkit("compare", "--from", tmp_path, "--select", "val", "--metric", "acc")
        rows = list(csv.DictReader(io.StringIO(done.stdout), delimiter="\t"))
        return [row["chosen"] for row in rows if row["opt"].startswith("sam")], done.stderr

    return call


def test_seeds_that_one_lacks_have_no_part_in_it(choose):
    """Alone the seed 0 of the larger radius would win; of the seeds 1 and 2 the smaller one is better."""
    chosen, told = choose({0.1: {0: 0.1, 1: 0.8, 2: 0.8}, 0.2: {1: 0.7, 2: 0.7}})
    assert chosen == ["sam:rho=0.1"]
    assert "sam:rho=0.1 is the best of 2 by validation accuracy over the seeds that all have (1, 2) (80.00 %)" in told


def test_what_diverged_comes_last_however_good_the_rest_is(choose):
    chosen, told = choose({0.1: {0: 0.7, 1: 0.7}, 0.2: {0: 0.9}}, [(0.2, 1)])
    assert chosen == ["sam:rho=0.1"]
    assert "passed over: sam:rho=0.2, of which 1 diverged" in told
    assert "sam:rho=0.1 is the best of 1 by validation accuracy (70.00 %)" in told


def test_one_without_any_is_named(choose):
    chosen, told = choose({0.1: {0: 0.7}, 0.2: {0: float("nan")}, 0.4: {0: 0.8}}, [(0.8, 0)])
    assert chosen == ["sam:rho=0.4"]
    assert "passed over without a validation accuracy: sam:rho=0.2, sam:rho=0.8 (1 diverged)" in told


@pytest.mark.parametrize(
    ("grid", "why"),
    [
        ({0.1: {0: float("nan")}, 0.2: {0: float("nan")}}, "none has a validation accuracy to choose by"),
        ({0.1: {0: 0.7}, 0.2: {1: 0.9}}, "sam:rho=0.1, sam:rho=0.2 have no seed in common"),
    ],
)
def test_where_nothing_can_be_chosen_all_are_shown_and_it_is_said(choose, grid, why):
    chosen, told = choose(grid)
    assert chosen == ["", ""]
    assert f"sam: all are shown, for {why}" in told

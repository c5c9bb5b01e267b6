"""Differences between seeds against scipy on the same numbers, textbook examples and simulations."""

import math

import numpy as np
import pytest
from scipy import stats

from sharpkit.statistics.comparison import Group, compared, p_text, sentence
from sharpkit.statistics.difference import adjusted, difference

OURS = {0: 96.1, 1: 95.8, 2: 96.6, 3: 96.0, 4: 96.4}
BASE = {0: 95.0, 1: 95.3, 2: 95.6, 3: 95.2, 4: 95.1}
A, B = np.array(list(OURS.values())), np.array(list(BASE.values()))


def test_the_paired_t_test_is_scipys():
    found, expected = difference(OURS, BASE), stats.ttest_rel(A, B)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-12)
    low, high = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-12)
    assert found.mean == pytest.approx((A - B).mean())
    assert found.effect == pytest.approx((A - B).mean() / (A - B).std(ddof=1))
    assert (found.n, found.n_base, found.reason) == (5, 5, "")


def test_wilcoxons_and_welchs_are_scipys():
    assert difference(OURS, BASE, test="wilcoxon").p == pytest.approx(stats.wilcoxon(A, B).pvalue)
    found, expected = difference(OURS, BASE, test="welch"), stats.ttest_ind(A, B, equal_var=False)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert found.effect == pytest.approx((A.mean() - B.mean()) / math.sqrt((A.var(ddof=1) + B.var(ddof=1)) / 2))


def test_pairs_are_made_by_seed_and_not_by_position():
    shuffled = {seed: BASE[seed] for seed in (3, 0, 4, 2, 1)}
    assert difference(OURS, shuffled) == difference(OURS, BASE)
    some = difference({**OURS, 9: 1000.0}, BASE)
    assert some == difference(OURS, BASE)


@pytest.mark.parametrize("test", ["paired-t", "welch", "wilcoxon"])
@pytest.mark.parametrize("n", [1, 2])
def test_no_p_value_for_fewer_than_three_seeds(n, test):
    found = difference({i: OURS[i] for i in range(n)}, {i: BASE[i] for i in range(n)}, test=test)
    assert math.isnan(found.p)
    assert math.isnan(found.low)
    assert found.reason == f"{n} seed{'s' * (n > 1)}: too few for a test, 3 are needed"
    assert found.mean == pytest.approx(np.mean([OURS[i] - BASE[i] for i in range(n)]))


@pytest.mark.parametrize("test", ["paired-t", "welch", "wilcoxon"])
def test_equal_and_constant_values(test):
    same = dict.fromkeys(range(5), 1.0)
    found = difference(same, same, test=test)
    assert (found.mean, found.p, found.effect) == (0, 1, 0)
    shifted = difference(dict.fromkeys(range(5), 2.0), same, test=test)
    assert math.isnan(shifted.p)
    assert "not vary" in shifted.reason


@pytest.mark.parametrize("test", ["paired-t", "wilcoxon"])
def test_differences_that_vary_by_rounding_alone_do_not_vary(test):
    base = {seed: 90 + seed * 0.1 for seed in range(8)}
    found = difference({seed: value + 3.1 for seed, value in base.items()}, base, test=test)
    assert found.std == 0
    assert math.isnan(found.p)
    assert "not vary" in found.reason


def test_nothing_in_common():
    found = difference({0: 1.0}, {1: 2.0})
    assert (found.n, found.reason) == (0, "no seed in common with the baseline")


def test_holm_and_benjamini_hochberg():
    p = [0.01, 0.04, 0.03, math.nan, 0.005]
    assert adjusted(p, "holm") == pytest.approx([0.03, 0.06, 0.06, math.nan, 0.02], nan_ok=True)
    assert adjusted(p, "bh") == pytest.approx([0.02, 0.04, 0.04, math.nan, 0.02], nan_ok=True)
    assert adjusted(p, "none") == pytest.approx(p, nan_ok=True)
    assert adjusted([0.9, 0.8], "holm") == [1, 1]
    assert adjusted([math.nan], "holm") == pytest.approx([math.nan], nan_ok=True)


def test_holm_holds_the_level_over_a_table():
    """Of 2,000 tables of five true null hypotheses about 5 % have any finding; without correction about 23 %."""
    rng = np.random.default_rng(0)
    p = stats.ttest_1samp(rng.standard_normal((2000, 5, 6)), 0, axis=2).pvalue
    found = np.mean([min(adjusted(row.tolist())) < 0.05 for row in p])
    assert 0.035 < found < 0.065
    assert np.mean(p.min(axis=1) < 0.05) > 0.19


def group(label, values, settings=()):
    return Group(label, settings, {"acc": values})


def test_rows_are_compared_with_the_baseline_of_their_settings():
    low, high = (("label_noise", "0.2"),), (("label_noise", "0.4"),)
    shifted = {seed: value - 20 for seed, value in BASE.items()}
    rows = compared(
        [group("sgd", BASE, low), group("sam", OURS, low), group("sgd", shifted, high), group("sam", BASE, high)],
        "sgd",
        "acc",
    )
    assert [row.baseline for row in rows] == [True, False, True, False]
    assert rows[1].difference == difference(OURS, BASE)
    assert rows[3].difference.mean == pytest.approx(20)
    assert rows[1].p_adjusted == pytest.approx(2 * rows[1].difference.p) or rows[3].difference.p != rows[3].difference.p
    assert rows[0].difference is None
    assert rows[1].means["acc"] == pytest.approx(A.mean())
    assert rows[1].stds["acc"] == pytest.approx(A.std(ddof=1))


def test_sentences():
    rows = compared(
        [group("sgd", BASE), group("sam", OURS), group("gnp", {0: 95.1, 1: 95.2, 2: 95.7, 3: 95.2})], "sgd", "acc"
    )
    assert sentence(rows[0], "points") == "the baseline"
    assert sentence(rows[1], "points").startswith("+0.94 points [+0.5")
    assert "p_adj = " in sentence(rows[1], "points")
    assert sentence(rows[2], "points").startswith("no significant difference (+0.03 points [")
    assert ", p_adj = 0.64, 4 pairs; a true 0.26 points would show with probability 0.8)" in sentence(rows[2], "points")
    few = compared([group("sgd", {0: 1.0, 1: 2.0}), group("sam", {0: 2.0, 1: 3.5})], "sgd", "acc")
    assert sentence(few[1], "points") == "+1.25 points; 2 seeds: too few for a test, 3 are needed"
    alone = compared([group("sam", OURS)], "sgd", "acc")
    assert sentence(alone[0], "points") == "no baseline with these settings"
    assert [p_text(p) for p in (0.034, 1e-9, math.nan)] == ["0.034", "< 0.0001", ""]


def test_a_group_without_a_result_is_a_row_and_a_baseline_without_one_stays_it():
    gone = Group("sam", (), {"acc": {}}, dict.fromkeys(range(5), "diverged"))
    rows = compared([group("sgd", BASE), gone, group("gnp", OURS)], "sgd", "acc")
    assert [(row.n, row.planned, row.baseline) for row in rows] == [(5, 5, True), (0, 5, False), (5, 5, False)]
    assert rows[1].difference is None
    assert math.isnan(rows[1].p_adjusted)
    assert sentence(rows[1], "points") == "0 of 5 runs have a result (5 diverged)"
    assert rows[2].difference == difference(OURS, BASE)
    assert rows[2].p_adjusted == rows[2].difference.p, "a row without a difference is no comparison"

    rows = compared([gone, group("sgd", BASE), group("gnp", OURS)], "sam", "acc")
    assert [row.baseline for row in rows] == [True, False, False]
    assert [row.difference for row in rows] == [None] * 3
    assert sentence(rows[0], "points") == "the baseline; 0 of 5 runs have a result (5 diverged)"
    assert sentence(rows[1], "points") == "of the baseline sam 0 of 5 runs have a result (5 diverged)"


def test_a_sentence_says_of_how_many_pairs_and_what_was_lost():
    lost = Group("sam", (), {"acc": {s: OURS[s] for s in range(1, 4)}}, {0: "failed", 4: "missing"})
    row = compared([group("sgd", BASE), lost], "sgd", "acc")[1]
    assert (row.n, row.planned, row.difference.n) == (3, 5, 3)
    told = sentence(row, "points")
    assert ", 3 pairs" in told
    assert told.endswith("; 3 of 5 runs have a result (1 failed, 1 missing)")
    welch = compared([group("sgd", BASE), lost], "sgd", "acc", test="welch")[1]
    assert "3 and 5 seeds" in sentence(welch, "points")

"""The smallest difference that so many seeds show: tables of power, and simulations of the tests themselves."""

import math

import numpy as np
import pytest
from scipy import stats

from sharpkit.statistics.comparison import Group, compared
from sharpkit.statistics.difference import difference
from sharpkit.statistics.power import detectable


def of(n, std=1.0, test="paired-t", mean=0.1):
    """A difference of n pairs (or of two samples of n) with a spread."""
    noise = np.random.default_rng(n).standard_normal(n)
    noise = (noise - noise.mean()) / noise.std(ddof=1) * std
    base = np.zeros(n) if test != "welch" else noise
    return difference(dict(enumerate(noise + mean)), dict(enumerate(base)), test=test)


@pytest.mark.parametrize(("effect", "n"), [(0.5, 34), (0.8, 15), (1.0, 10), (1.5, 6)])
def test_cohens_tables_for_pairs(effect, n):
    """G*Power's numbers of pairs for a paired t-test, two-sided, 0.05, power 0.8: one pair less is not enough."""
    assert detectable(of(n), "paired-t", 0.05) <= effect < detectable(of(n - 1), "paired-t", 0.05)


@pytest.mark.parametrize(("effect", "n"), [(0.5, 64), (0.8, 26)])
def test_cohens_tables_for_two_samples(effect, n):
    """Cohen (1988), table 2.4.1."""
    assert detectable(of(n, test="welch"), "welch", 0.05) <= effect < detectable(of(n - 1, test="welch"), "welch", 0.05)


def test_it_scales_with_the_spread_and_not_with_the_mean():
    for test in ("paired-t", "wilcoxon", "welch"):
        one = detectable(of(8, test=test), test, 0.05)
        assert detectable(of(8, std=3.0, test=test), test, 0.05) == pytest.approx(3 * one)
        assert detectable(of(8, mean=5.0, test=test), test, 0.05) == pytest.approx(one)
        assert detectable(of(8, test=test), test, 0.01) > one


@pytest.mark.parametrize("level", [0.05, 0.05 / 4])
@pytest.mark.parametrize("n", [3, 5, 20])
def test_students_test_shows_it_in_four_of_five_simulations(n, level):
    """Of 20,000 samples of differences that large, with the spread that was assumed, 80 % are significant."""
    rng = np.random.default_rng(1)
    shift = detectable(of(n), "paired-t", level)
    p = stats.ttest_1samp(rng.standard_normal((20_000, n)) + shift, 0, axis=1).pvalue
    assert np.mean(p < level) == pytest.approx(0.8, abs=4 * math.sqrt(0.16 / 20_000))


def test_welchs_test_shows_it_too():
    rng = np.random.default_rng(2)
    ours, base = rng.standard_normal((20_000, 6)), rng.standard_normal((20_000, 6))
    shift = detectable(of(6, test="welch"), "welch", 0.05)
    p = stats.ttest_ind(ours + shift, base, axis=1, equal_var=False).pvalue
    assert np.mean(p < 0.05) == pytest.approx(0.8, abs=0.02)  # Welch's degrees of freedom are estimated


def test_wilcoxons_shows_it_nearly():
    """Its power by the asymptotic efficiency is an approximation with 12 pairs."""
    rng = np.random.default_rng(3)
    shift = detectable(of(12, test="wilcoxon"), "wilcoxon", 0.05)
    p = stats.wilcoxon(rng.standard_normal((4000, 12)) + shift, axis=1).pvalue
    assert np.mean(p < 0.05) == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize(("n", "possible"), [(5, False), (6, True)])
def test_ranks_of_so_few_pairs_show_nothing(n, possible):
    """The smallest p-value of 5 pairs is 2/32, of 6 pairs 2/64."""
    least = stats.wilcoxon(np.arange(1.0, n + 1)).pvalue
    assert bool(least < 0.05) is possible
    assert math.isfinite(detectable(of(n, test="wilcoxon"), "wilcoxon", 0.05)) is possible


def test_nothing_is_said_where_there_is_no_spread_or_no_test():
    same = dict.fromkeys(range(5), 1.0)
    assert math.isnan(detectable(difference(same, same), "paired-t", 0.05))
    assert math.isnan(detectable(of(2), "paired-t", 0.05))
    assert math.isnan(detectable(difference({0: 1.0}, {1: 2.0}), "paired-t", 0.05))


def test_the_level_is_that_of_the_table():
    rng = np.random.default_rng(4)
    groups = [Group(str(i), (), {"acc": dict(enumerate(rng.standard_normal(6)))}) for i in range(5)]
    for correction, level in (("holm", 0.05 / 4), ("bh", 0.05 / 4), ("none", 0.05)):
        rows = compared(groups, "0", "acc", correction=correction)
        for row in rows[1:]:
            assert row.detectable == pytest.approx(detectable(row.difference, "paired-t", level))

"""Estimates of the trace against the trace, over many seeds."""

import numpy as np
import pytest
import torch
from scipy import stats

from sharpkit.diagnostics.curvature.operators import Matrix
from sharpkit.diagnostics.curvature.trace import estimate
from sharpkit.errors import UsageError
from tests.diagnostics.support import Sum, basis_of, rotated

VALUES = [30.0, 20, 10, 5, 3, *np.linspace(-0.5, 1, 115)]
MATRIX = rotated(VALUES)
SIZES = [50, 30, 40]


def trace_of(method, seed, steps=12, tol=1e-9, most=30, sizes=SIZES):
    operator = Matrix(MATRIX)
    lanczos = None
    if method == "deflated":
        lanczos = basis_of(operator, seed=seed)
        for _ in range(steps):
            lanczos.step()
    generator = torch.Generator().manual_seed(1000 + seed)
    return estimate(operator, sizes, method=method, lanczos=lanczos, tol=tol, most=most, generator=generator)


@pytest.mark.parametrize(
    ("method", "most"),
    [
        ("deflated", 60),
        pytest.param("hutchinson", 150, marks=pytest.mark.slow),
        pytest.param("hutch++", 60, marks=pytest.mark.slow),
    ],
)
def test_the_trace_is_within_three_standard_errors(method, most):
    """Hutchinson's samples are skewed by the large eigenvalues, so it takes more of them to be as good as normal."""
    exact = np.array([part.sum() for part in np.split(MATRIX.diagonal().numpy(), np.cumsum(SIZES)[:-1])])
    found = [trace_of(method, seed, most=most) for seed in range(200)]
    whole = np.array([(t.value - exact.sum()) / t.error for t in found])
    assert (np.abs(whole) < 3).mean() >= 0.99
    assert abs(whole.mean()) < 0.3
    parts = np.array([(t.parts - exact) / t.part_errors for t in found])
    assert (np.abs(parts) < 3.5).mean() >= 0.98
    assert np.abs(parts.mean(axis=0)).max() < 0.3
    assert all(t.value == pytest.approx(t.parts.sum()) for t in found)


SMALL = rotated([8.0, 5, 3, 2, *np.linspace(-0.3, 0.5, 36)])


def covered(method, tol, *, most=100, steps=8, seeds=200):
    """Of 95 % intervals for the trace and its parts, how many of 200 cover: 190 +- 3.1 (one standard deviation)."""
    exact = np.array([part.sum() for part in np.split(SMALL.diagonal().numpy(), [15, 25])])
    whole, parts, samples = 0, np.zeros(3), []
    for seed in range(seeds):
        operator = Matrix(SMALL)
        lanczos = None
        if method == "deflated":
            lanczos = basis_of(operator, seed=seed)
            for _ in range(steps):
                lanczos.step()
        generator = torch.Generator().manual_seed(5_000 + seed)
        found = estimate(
            operator, [15, 10, 15], method=method, lanczos=lanczos, tol=tol, most=most, generator=generator
        )
        low, high = found.interval
        whole += low <= exact.sum() <= high
        widths = stats.t.ppf(0.975, found.samples - 1) * found.part_errors
        assert high - found.value == pytest.approx(stats.t.ppf(0.975, found.samples - 1) * found.error, rel=1e-9)
        parts += np.abs(found.parts - exact) <= widths
        samples.append(found.samples)
    return whole, parts, samples


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "tol", "most"),
    [
        ("deflated", 1e-9, 12),  # the pilot alone
        ("deflated", 0.02, 100),  # some stop with the pilot, some go on
        ("deflated", 0.005, 100),  # near the limit
        ("deflated", 1e-9, 60),
        ("hutchinson", 0.05, 400),
        ("hutchinson", 1e-9, 100),
        ("hutch++", 0.02, 60),
        ("hutch++", 1e-9, 60),
    ],
)
def test_the_interval_of_the_trace_covers_it_whatever_stops_it(method, tol, most):
    """Within three standard deviations below 95 % of 200 seeds, and not by being too wide."""
    whole, parts, samples = covered(method, tol, most=most)
    assert 180 <= whole <= 199
    assert (parts >= 178).all()
    assert min(samples) >= 12


def test_the_number_of_samples_is_chosen_by_the_pilot_alone():
    """With a limit far away the samples are those that the first twelve ask for, not those that come out lucky."""
    generator = torch.Generator().manual_seed(3)
    pilot = estimate(Matrix(SMALL), [40], method="hutchinson", tol=1e-9, most=12, generator=generator)
    generator = torch.Generator().manual_seed(3)
    found = estimate(Matrix(SMALL), [40], method="hutchinson", tol=0.05, most=10_000, generator=generator)
    assert pilot.samples == 12
    assert found.samples == max(12, int(np.ceil(12 * (pilot.error / (0.05 * abs(pilot.value))) ** 2)))


def test_deflation_saves_most_of_the_variance():
    plain, deflated = trace_of("hutchinson", 0, most=100), trace_of("deflated", 0, most=88)
    assert deflated.error**2 < plain.error**2 / 20


def test_it_stops_at_the_error_that_is_asked_for():
    found = trace_of("deflated", 0, tol=0.05, most=1000)
    assert found.error <= 0.05 * found.value
    assert found.samples < 1000


def test_the_whole_space_gives_the_exact_trace():
    found = trace_of("deflated", 0, steps=120)
    assert found.value == pytest.approx(sum(VALUES), rel=1e-10)
    assert (found.error, found.samples) == (0, 0)


def test_one_piece_is_as_many():
    one, many = (trace_of("deflated", 3, sizes=sizes) for sizes in ([120], SIZES))
    assert one.value == pytest.approx(many.value, rel=1e-12)


def hutchinson(operator):
    generator = torch.Generator().manual_seed(0)
    return estimate(operator, SIZES, method="hutchinson", tol=1e-9, most=1000, generator=generator)


def test_terms_with_vectors_of_their_own_do_not_err_together():
    """Var(z . A z) of four equal quarters is a quarter, and of matrices without a common direction it is the same."""
    whole = hutchinson(Matrix(MATRIX))
    assert hutchinson(Sum(*[MATRIX / 4] * 4)).error ** 2 / whole.error**2 == pytest.approx(1 / 4, rel=0.2)
    exact = 2 * (MATRIX.square().sum() - MATRIX.diagonal().square().sum()).item() / 1000
    assert whole.error**2 == pytest.approx(exact, rel=0.2)


def test_terms_that_differ_add_up_to_the_trace():
    """The basis is that of the sum, and in no term does it span an invariant space."""
    quarters = [rotated(VALUES, seed) / (1 + seed) for seed in range(4)]
    exact = np.array([sum(q.diagonal()[i : i + n].sum() for q in quarters) for i, n in [(0, 50), (50, 30), (80, 40)]])
    deviations = []
    for seed in range(50):
        operator = Sum(*quarters)
        lanczos = basis_of(operator, seed=seed)
        for _ in range(12):
            lanczos.step()
        generator = torch.Generator().manual_seed(seed)
        found = estimate(operator, SIZES, lanczos=lanczos, tol=1e-9, most=40, generator=generator)
        deviations.append((found.parts - exact) / found.part_errors)
    assert np.abs(np.mean(deviations, axis=0)).max() < 0.5
    assert (np.abs(deviations) < 4).all()


def test_low_rank_is_exact_by_hutchpp():
    low = Matrix(rotated([5.0, 3, -1, *np.zeros(60)]))
    found = estimate(low, [63], method="hutch++", most=20, generator=torch.Generator().manual_seed(0))
    assert found.value == pytest.approx(7, abs=1e-9)


def test_misuse():
    generator = torch.Generator()
    with pytest.raises(UsageError, match="allowed are deflated"):
        estimate(Matrix(MATRIX), [120], method="exact", generator=generator)
    with pytest.raises(UsageError, match="needs a Lanczos basis"):
        estimate(Matrix(MATRIX), [120], generator=generator)

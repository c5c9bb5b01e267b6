"""Every error bar that a diagnostic prints, on problems whose answer is known: 95 % intervals of 200 seeds.

Covered are 190 +- 3.1 of 200 (one standard deviation of the binomial distribution) if the error is right. Fewer than
180 are three deviations off, and all 200 have a probability of 4e-5. Trace and density are in `curvature`, the
simulated share of AE-SAM in `gradients`.
"""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from sharpkit.diagnostics import graddiff, hessian, landscape, random_plane, sharpness
from sharpkit.diagnostics.curvature.eigenvalues import converge, eigenpairs
from sharpkit.diagnostics.curvature.operators import Matrix
from sharpkit.diagnostics.intervals import half_width
from sharpkit.diagnostics.surfaces.cells import Cells
from sharpkit.diagnostics.surfaces.chebyshev import fill
from sharpkit.diagnostics.surfaces.surface import Cell
from tests.diagnostics.support import basis_of, rotated

SEEDS = 200


def nominal(covered):
    return 180 <= covered <= 199


class Weights(nn.Module):
    """A parameter vector that the loss is a function of; the inputs go through beside it."""

    def __init__(self, values):
        super().__init__()
        self.w = nn.Parameter(torch.as_tensor(values, dtype=torch.float64))

    def forward(self, x):
        return torch.cat([x, self.w.expand(len(x), -1)], 1)


def linear(outputs, targets, reduction):
    """<x, w>, of which the gradient is x."""
    x, w = outputs.chunk(2, 1)
    return (x * w).sum(1)


def square(outputs, targets, reduction):
    """<x, w>^2 / 2, of which the Hessian is x x^T."""
    return linear(outputs, targets, reduction) ** 2 / 2


def normal(seed, count, mean, deviation):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(count, len(mean), generator=generator, dtype=torch.float64)
    return drawn * torch.tensor(deviation, dtype=torch.float64) + torch.tensor(mean, dtype=torch.float64)


def batch(x):
    return x, torch.zeros(len(x))


def test_the_half_width_is_that_of_students_t():
    for count in (2, 5, 12, 200):
        assert half_width(0.3, count) == pytest.approx(stats.t.ppf(0.975, count - 1) * 0.3, rel=1e-12)
    assert half_width(0.0, 0) == 0
    assert np.isnan(half_width(0.3, 1))


@pytest.mark.slow
def test_errors_of_eigenvalues_cover_the_eigenvalue_of_the_distribution():
    """H = E x x^T has the eigenvalues of the covariance; 16 pieces have 15 degrees of freedom."""
    deviation, exact = (2.0, 1.0, 0.7, 0.5), (4.0, 1.0)
    covered = np.zeros(2)
    for seed in range(SEEDS):
        x = normal(seed, 640, [0.0] * 4, deviation)
        found = hessian(Weights([0.0] * 4), square, [batch(x)], top=2, error_bars=True)
        covered += np.abs(found.eigenvalues - exact) <= stats.t.ppf(0.975, 15) * found.errors
    assert all(nominal(c) for c in covered)


def test_residuals_bound_the_distance_to_an_eigenvalue():
    """Not a matter of chance: the nearest eigenvalue is within the residual, converged or not, for all 200 seeds."""
    values = np.array([9.0, 5, 4.5, 1, *np.linspace(-1, 0.9, 36)])
    for seed in range(SEEDS):
        lanczos = basis_of(Matrix(rotated(values, seed)), seed=seed)
        ritz = converge(lanczos, 4, tol=0.3, most=4 + seed % 12)
        pairs = eigenpairs(lanczos, ritz, 4, bottom=1, tol=0.3)
        distance = np.abs(pairs.values[:, None] - values).min(1)
        assert (distance <= pairs.residuals + 1e-12).all()


@pytest.mark.slow
def test_errors_of_rises_cover_them():
    """One step and ascent on a linear loss rise by rho |E x| to first order, and random directions by 0."""
    covered = dict.fromkeys(("one_step", "ascent", "average", "m_sharpness"), 0)
    exact = {"one_step": 0.5 * 3, "ascent": 0.5 * 3, "average": 0.0, "m_sharpness": 0.5 * 3}
    for seed in range(SEEDS):
        x = normal(seed, 60, (3.0, 0, 0), (1.0, 0.05, 0.05))
        found = sharpness(
            Weights([0.0] * 3), linear, [batch(x)], "sam:rho=0.5", steps=2, restarts=0, directions=12, m=5, seed=seed
        )
        for name in covered:
            low, high = getattr(found, name).interval
            covered[name] += low <= exact[name] <= high
        assert (found.one_step.count, found.average.count, found.m_sharpness.count) == (60, 12, 12)
    assert all(nominal(c) for c in covered.values()), covered


@pytest.mark.slow
def test_the_error_of_a_fraction_covers_it():
    """For the loss <x, w^2> / 2 the gradient changes by rho h_i g_i / |g|, h = mean x: r_i < 0 where rho h_i < |g|."""

    def bowl(outputs, targets, reduction):
        x, w = outputs.chunk(2, 1)
        return (x * w * w).sum(1) / 2

    w, rho = torch.tensor([1.0, 0.4, -0.6, 0.2, 0.8], dtype=torch.float64), 1.4
    mean, deviation = (1.0, 1.2, 0.8, 1.5, 0.9), (0.8, 0.5, 0.9, 0.7, 0.6)
    h = normal(10_000, 400_000, mean, np.array(deviation) / 2)  # means of batches of four
    norms = (h * w).norm(dim=1, keepdim=True)
    exact = float((rho * h.abs() < norms).double().mean())
    assert 0.2 < exact < 0.8
    covered = 0
    for seed in range(SEEDS):
        x = normal(seed, 60, mean, deviation)
        found = graddiff(Weights(w), bowl, [batch(part) for part in x.split(4)], f"sam:rho={rho}")
        covered += abs(found.total.fraction_negative - exact) <= half_width(found.error, found.batches)
    assert nominal(covered)


def test_the_error_of_the_loss_at_a_point_covers_it():
    model, covered = Weights([1.0, 2.0]), np.zeros(2)
    plane = random_plane(model, 1, norm="none", ignore="none", seed=0)
    at = model.w.detach() + 0.5 * plane.axes[0][0]
    exact = [1.0 - 0.5 * 2.0, float(at[0] - 0.5 * at[1])]
    for seed in range(SEEDS):
        x = normal(seed, 40, (1.0, -0.5), (0.6, 0.8))
        found = landscape(model, linear, [batch(x)], plane=plane, x=[0.0, 0.5], y=None, check=False, chunk=40)
        covered += np.abs(found.loss[0] - exact) <= stats.t.ppf(0.975, 39) * found.error[0]
    assert all(nominal(c) for c in covered)


@pytest.mark.slow
def test_an_accepted_interpolant_is_off_on_no_more_cells_than_it_says():
    """Of n held-out cells all agree with a probability of 5 % at most where a part 1 - 0.05^(1/n) of all is off.

    Bumps of a random width are too narrow for the points of the interpolant in part of the grid. So of 200 seeds ten
    or fewer may be accepted with more cells off than that, and 20 would be three deviations beyond.
    """
    xs, ys = np.linspace(-1, 1, 41).tolist(), np.linspace(-1, 1, 41).tolist()
    worse = accepted = bad = 0
    for seed in range(SEEDS):
        draw = np.random.default_rng(seed)
        place, width, height = draw.uniform(-0.8, 0.8, 2), draw.uniform(0.1, 0.4), draw.uniform(0.02, 0.2)

        def loss(a, b, place=place, width=width, height=height):
            return float(a * a + b * b + height * np.exp(-((a - place[0]) ** 2 + (b - place[1]) ** 2) / width**2))

        cells = Cells()

        def evaluate(points, cells=cells, loss=loss):
            for a, b in points:
                cells.add((a, b), Cell(loss(a, b), 0.5, 0.1))
            return True

        found = fill(cells, xs, ys, 0.01, evaluate, seed=seed)
        if found.values is None:
            continue
        accepted += 1
        true = np.array([[loss(a, b) for a in xs] for b in ys])
        off = (np.abs(found.values[0] - true) / np.ptp(true) > 0.01).mean()
        bad += off > 0.02
        worse += off > 1 - 0.05 ** (1 / 17)
    assert accepted > 100
    assert bad > 5
    assert worse <= 19

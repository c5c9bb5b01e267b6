"""The references against each other: hyperparameters that make one method another."""

import numpy as np
import pytest

from tests.reference import base, reference, unions
from tests.reference.problems import EPOCH, PROBLEMS, SAMPLES
from tests.reference.ssam_f import largest, two_of_four, units

STEPS = 10
BASES = {
    "momentum": lambda: base.SGD(0.1, momentum=0.9, weight_decay=1e-3),
    "adam": lambda: base.Adam(0.01, weight_decay=0.1),
}


def path(name, problem, optimizer="momentum", **settings):
    module = unions().get(name) or reference(name)
    return np.array(module.trajectory(PROBLEMS[problem](), BASES[optimizer](), STEPS, **settings))


ALL = np.ones((STEPS, 1), dtype=bool)
EQUAL = [
    ("ssam-f", {"rho": 0.3, "sparsity": 0.0}, "sam", {"rho": 0.3}),
    ("ssam-f", {"rho": 0.3, "sparsity": 1.0}, "sgd", {}),
    ("ssam-f", {"rho": 0.3, "sparsity": 0.0, "structure": "filter"}, "sam", {"rho": 0.3}),
    ("ssam-f", {"rho": 0.3, "sparsity": 0.0, "structure": "tensor", "tm": 0}, "sam", {"rho": 0.3}),
    ("ssam-f", {"rho": 0.3, "mask": "random", "masks": ALL}, "sam", {"rho": 0.3}),
    ("ssam-d", {"rho": 0.3, "masks": ALL}, "sam", {"rho": 0.3}),
    ("ssam-d", {"rho": 0.3, "masks": ~ALL}, "sgd", {}),
    ("saf", {"lam": 0.0, "lag": 1, "start": 0}, "sgd", {}),
    ("saf", {"lag": 1, "start": 2}, "sgd", {}),
    ("saf", {"lag": 3, "start": 0}, "sgd", {}),
    ("sam+saf", {"rho": 0.3, "lam": 0.0, "lag": 1, "start": 0}, "sam", {"rho": 0.3}),
    ("sam+saf", {"rho": 0.0, "lag": 1, "start": 0}, "saf", {"lag": 1, "start": 0}),
    ("mesa", {"lam": 0.0, "start": 0}, "sgd", {}),
    ("mesa", {"start": 2}, "sgd", {}),
    ("sampa+mesa", {"rho": 0.3, "start": 0, "sampa.lam": 0.4, "mesa.lam": 0.0}, "sampa", {"rho": 0.3, "lam": 0.4}),
    ("sampa+ssam-f", {"rho": 0.3, "lam": 0.4, "sparsity": 0.0}, "sampa", {"rho": 0.3, "lam": 0.4}),
    ("sampa+ssam-f", {"sparsity": 1.0}, "sampa", {"rho": 0.0}),
    ("msam+vasso", {"rho": 0.3, "theta": 1.0, "m": 3}, "msam", {"rho": 0.3, "m": 3}),
    ("msam+vasso", {"rho": 0.3, "theta": 0.6, "m": 1}, "vasso", {"rho": 0.3, "theta": 0.6}),
    ("ae-sam+msam", {"rho": 0.3, "lam1": -4, "lam2": -4, "m": 3}, "msam", {"rho": 0.3, "m": 3}),
    ("ae-sam+msam", {"rho": 0.3, "lam1": 0, "lam2": 2, "m": 1}, "ae-sam", {"rho": 0.3, "lam1": 0, "lam2": 2}),
    ("ae-sam+msam", {"lam1": 4, "lam2": 4, "m": 3}, "sgd", {}),
]


@pytest.mark.parametrize("optimizer", BASES)
@pytest.mark.parametrize("problem", ["mlp", "layer-norm"])
@pytest.mark.parametrize(("one", "settings", "other", "others"), EQUAL)
def test_one_method_is_another(one, settings, other, others, problem, optimizer):
    expected = path(other, problem, optimizer, **others)
    np.testing.assert_allclose(path(one, problem, optimizer, **settings), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", ["only", "except"])
def test_ssam_f_of_all_that_sam_on_leaves_is_sam_on(norm):
    expected = path("sam-on", "batch-norm", rho=0.3, norm=norm)
    sparse = path("sam-on+ssam-f", "batch-norm", rho=0.3, norm=norm, sparsity=0.0)
    np.testing.assert_allclose(sparse, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_mesa_of_a_teacher_that_never_moves_or_is_the_model_itself(decay):
    """With decay 0 the teacher is the student, without batch norm, and KL is flat there."""
    paths = [path(name, "layer-norm", **s) for name, s in (("mesa", {"decay": decay, "start": 0}), ("sgd", {}))]
    apart = np.abs(paths[0] - paths[1]).max()
    assert (apart < 1e-12) == (decay == 0.0)


def test_every_epoch_shows_every_sample_once_and_in_its_own_order():
    problem = PROBLEMS["mlp"]()
    epochs = [np.concatenate([problem.batch(EPOCH * e + i)[2] for i in range(EPOCH)]) for e in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(SAMPLES))
    assert not np.array_equal(epochs[0], epochs[1])
    x, y, rows = problem.batch(EPOCH + 1)
    assert bool((problem.data[0][rows] == x).all() and (problem.data[1][rows] == y).all())


@pytest.mark.parametrize("problem", PROBLEMS)
def test_squares_are_those_of_every_sample_alone(problem):
    problem = PROBLEMS[problem]()
    one, many = (problem.squares(problem.start, 0, count) for count in (1, 8))
    assert many.shape == problem.start.shape
    assert (many >= one / 8).all()
    if not problem.buffers:
        alone = [problem.gradient(problem.start, 0, rows=slice(i, i + 1)) for i in range(8)]
        np.testing.assert_allclose(many, np.square(alone).mean(0), rtol=0, atol=1e-15)
        assert not np.allclose(many, problem.gradient(problem.start, 0) ** 2)


def test_evaluation_reads_the_buffers_and_leaves_them():
    problem = PROBLEMS["batch-norm"]()
    before = {name: b.clone() for name, b in problem.buffers.items()}
    ends = [problem.squares(problem.start, 0, 8), problem.outputs(problem.start, 0, problem.buffers)]
    assert all(bool((b == before[name]).all()) for name, b in problem.buffers.items())
    problem.gradient(problem.start, 0, clean=True)
    after = [problem.squares(problem.start, 0, 8), problem.outputs(problem.start, 0, problem.buffers)]
    assert not any(np.allclose(a, b) for a, b in zip(ends, after, strict=True))
    assert np.array_equal(problem.outputs(problem.start, 0, before), ends[1])


def test_units_and_budget():
    shapes = PROBLEMS["mlp"]().shapes  # (6, 4), (6,), (3, 6), (3,)
    sizes = {kind: np.bincount(units(shapes, kind)).tolist() for kind in ("element", "filter", "tensor")}
    assert sizes == {"element": [1] * 51, "filter": [4] * 6 + [6] + [6] * 3 + [3], "tensor": [24, 6, 18, 3]}
    unit, everything = units(shapes, "tensor"), np.ones(51, dtype=bool)
    score = np.array([5.0, 4.0, 3.0, 2.0])[unit]
    kept = {k: np.unique(unit[largest(score, unit, k, everything)]).tolist() for k in (51, 30, 26, 24, 10, 5, 2)}
    assert kept == {51: [0, 1, 2, 3], 30: [0, 1], 26: [0], 24: [0], 10: [1, 3], 5: [3], 2: [3]}
    element = units(shapes, "element")
    assert np.flatnonzero(largest(np.ones(51), element, 3, everything)).tolist() == [0, 1, 2]
    assert not largest(np.ones(51), element, 0, everything).any()


def test_two_of_every_four():
    shapes = PROBLEMS["mlp"]().shapes
    mask = two_of_four(np.arange(51.0), shapes)
    assert mask[:24].reshape(6, 4).tolist() == [[False, False, True, True]] * 6
    assert mask[24:30].all()
    assert mask[30:48].reshape(3, 6).tolist() == [[False, False, True, True, False, True]] * 3
    assert two_of_four(np.zeros(51), shapes)[:4].tolist() == [True, True, False, False]

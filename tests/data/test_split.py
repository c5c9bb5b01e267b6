"""Held-out data and label noise."""

from dataclasses import replace

import pytest
import torch

from sharpkit.data.dataset import Dataset, cut_test
from sharpkit.data.noise import with_noise
from sharpkit.data.samples import Samples
from sharpkit.data.split import split
from sharpkit.errors import UsageError


def dataset(count=200, classes=4, test=50):
    def make(n, first):
        return Samples(torch.arange(n * 1.0)[:, None] + first, torch.arange(n) % classes, first + torch.arange(n))

    return Dataset("x", make(count, 0), make(test, 1000), classes)


def cut(data, val_frac=0.1, label_noise=0.0, limit=None, seed=0):
    return split(data, val_frac=val_frac, label_noise=label_noise, limit=limit, seed=seed)


@pytest.mark.parametrize(("val_frac", "held_out"), [(0.0, 0), (0.1, 20), (0.333, 67), (0.99, 198)])
def test_validation_data_are_that_fraction_and_the_rest_is_trained_on(val_frac, held_out):
    parts = cut(dataset(), val_frac)
    assert (len(parts.val), len(parts.train)) == (held_out, 200 - held_out)
    together = torch.cat([parts.train.indices, parts.val.indices])
    assert sorted(together.tolist()) == list(range(200))
    assert parts.noisy_labels == 0


def test_the_split_follows_the_seed_and_the_test_set_does_not():
    data = dataset()
    assert torch.equal(cut(data, seed=3).val.indices, cut(data, seed=3).val.indices)
    assert not torch.equal(cut(data, seed=3).val.indices, cut(data, seed=4).val.indices)
    for seed in (0, 1, 99):
        assert torch.equal(cut(data, seed=seed).test.indices, data.test.indices)


@pytest.mark.parametrize(("limit", "used"), [(2, 2), (3, 3), (50, 50), (200, 200), (10_000, 200)])
def test_limit_counts_training_samples_before_validation_is_held_out(limit, used):
    parts = cut(dataset(), val_frac=0.25, limit=limit)
    assert len(parts.train) + len(parts.val) == used
    assert len(parts.val) == round(used * 0.25)
    assert len(parts.test) == 50


@pytest.mark.parametrize(("limit", "val_frac"), [(1, 0.0), (1, 0.1), (2, 0.5), (10, 0.95)])
def test_fewer_than_two_training_samples_are_refused(limit, val_frac):
    with pytest.raises(UsageError, match=r"leave [01] to train on.*--limit"):
        cut(dataset(), val_frac, limit=limit)


@pytest.mark.parametrize("noise", [0.0, 0.001, 0.2, 0.5, 0.999, 1.0])
def test_noise_replaces_an_exact_number_of_training_labels(noise):
    data = dataset(count=1000)
    clean, noisy = cut(data), cut(data, label_noise=noise)
    changed = clean.train.targets != noisy.train.targets
    assert int(changed.sum()) == noisy.noisy_labels == round(noise * 900)
    assert torch.equal(clean.train.indices, noisy.train.indices)
    assert torch.equal(clean.train.inputs, noisy.train.inputs)
    assert torch.equal(clean.val.targets, noisy.val.targets)
    assert torch.equal(noisy.val.targets, noisy.val.indices % 4)
    assert torch.equal(noisy.test.targets, data.test.targets)
    assert torch.equal(data.train.targets, torch.arange(1000) % 4)
    assert 0 <= int(noisy.train.targets.min()) <= int(noisy.train.targets.max()) < 4


def test_noise_follows_the_seed():
    targets = torch.arange(500) % 5
    a, b, c = (with_noise(targets, 0.4, 5, seed)[0] for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_noise_is_uniform_over_samples_and_other_classes():
    classes, each = 10, 3000
    targets = torch.arange(classes).repeat_interleave(each)
    noisy, count = with_noise(targets, 0.5, classes, seed=2)
    moves = torch.zeros(classes, classes)
    for before in range(classes):
        moves[before] = torch.bincount(noisy[targets == before], minlength=classes)
    replaced = each - moves.diag()
    assert moves.diag().sum() == classes * each - count
    spread = each * 0.5 * 0.5  # variance of the number replaced in a class
    assert float(((replaced - each / 2) ** 2 / spread).sum()) < 36  # chi-square, 10 degrees of freedom, p = 1e-4
    others = moves[~torch.eye(classes, dtype=torch.bool)]
    expected = count / (classes * (classes - 1))
    assert float(((others - expected) ** 2 / expected).sum()) < 140  # 89 degrees of freedom, p = 5e-4


def test_noise_needs_a_second_class():
    with pytest.raises(UsageError, match=r"at least two classes.*--label-noise 0"):
        with_noise(torch.zeros(10).long(), 0.5, 1, 0)
    assert with_noise(torch.zeros(10).long(), 0.0, 1, 0)[1] == 0


def test_a_third_of_every_class_is_cut_off_for_testing():
    counts = [30, 7, 1, 100]
    targets = torch.cat([torch.full((n,), c) for c, n in enumerate(counts)])
    every = Samples(torch.arange(138.0)[:, None], targets, torch.arange(138))
    train, test = cut_test(every)
    assert torch.bincount(test.targets, minlength=4).tolist() == [10, 2, 0, 33]
    assert sorted(torch.cat([train.indices, test.indices]).tolist()) == list(range(138))
    for part in (train, test):
        assert torch.equal(part.inputs[:, 0].long(), part.indices)
        assert torch.equal(part.targets, targets[part.indices])
        assert torch.equal(part.indices, part.indices.sort().values)
    torch.manual_seed(99)
    assert torch.equal(cut_test(every)[1].indices, test.indices)


# ---------------------------------------------------------------------- asymmetric noise


@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.45, 1.0])
def test_asymmetric_noise_replaces_an_exact_number_by_the_class_that_each_is_mistaken_for(fraction):
    targets = torch.arange(1000) % 5
    mistaken = (1, 1, 3, 2, 4)  # 0 becomes 1; 2 and 3 change places; 1 and 4 stay
    noisy, count = with_noise(targets, fraction, 5, 7, "asymmetric", mistaken)
    changed = noisy != targets
    assert count == int(changed.sum()) == round(fraction * 600)
    assert {(int(a), int(b)) for a, b in zip(targets[changed], noisy[changed], strict=True)} <= {(0, 1), (2, 3), (3, 2)}
    if 0 < fraction < 1:
        per_class = torch.bincount(targets[changed], minlength=5)[[0, 2, 3]] / 200
        assert float((per_class - fraction).abs().max()) < 0.15


def test_asymmetric_noise_makes_the_next_class_where_no_pairs_are_given():
    targets = torch.arange(300) % 3
    noisy, count = with_noise(targets, 1.0, 3, 0, "asymmetric")
    assert count == 300
    assert torch.equal(noisy, (targets + 1) % 3)


def test_asymmetric_noise_follows_the_seed_and_needs_a_second_class():
    targets = torch.arange(500) % 5
    a, b, c = (with_noise(targets, 0.4, 5, seed, "asymmetric")[0] for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    with pytest.raises(UsageError, match="at least two classes"):
        with_noise(torch.zeros(10).long(), 0.5, 1, 0, "asymmetric")


def test_a_data_set_says_which_classes_are_mistaken():
    data = replace(dataset(count=1000), mistaken=(0, 1, 3, 3))
    parts = split(data, val_frac=0.1, label_noise=0.5, limit=None, seed=0, noise_kind="asymmetric")
    clean = parts.train.indices % 4
    changed = parts.train.targets != clean
    assert set(clean[changed].tolist()) == {2}
    assert set(parts.train.targets[changed].tolist()) == {3}
    assert parts.noisy_labels == int(changed.sum()) == round(0.5 * int((clean == 2).sum()))
    assert torch.equal(parts.val.targets, parts.val.indices % 4)

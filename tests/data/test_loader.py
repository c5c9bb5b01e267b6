"""Batches: each sample once an epoch, in an order that seed and epoch alone decide."""

import pytest
import torch

from sharpkit.data.dataset import Dataset
from sharpkit.data.loader import Loader
from sharpkit.data.samples import Samples
from sharpkit.errors import UsageError


def samples(count, shape=(1, 4, 4)):
    inputs = torch.arange(1, count + 1, dtype=torch.float32).view(-1, *[1] * len(shape)).expand(-1, *shape).clone()
    return Samples(inputs, torch.arange(count) % 3, 100 + torch.arange(count))


def loader(count=20, batch_size=6, seed=0, augmentation="none", shape=(1, 4, 4), **options):
    data = samples(count, shape)
    return Loader(data, batch_size, seed, Dataset("x", data, data, 3, **options), augmentation)


def order(batches):
    return torch.cat([batch.indices for batch in batches]).tolist()


@pytest.mark.parametrize(("count", "size"), [(20, 6), (20, 5), (20, 20), (20, 50), (2, 2), (7, 1), (20, 18)])
def test_every_sample_comes_once_an_epoch(count, size):
    batches = list(loader(count, size).epoch(3))
    assert sorted(order(batches)) == [100 + i for i in range(count)]
    assert [batch.size for batch in batches] == [min(size, count - start) for start in range(0, count, size)]
    assert len(loader(count, size)) == len(batches)


@pytest.mark.parametrize(("count", "size"), [(21, 5), (7, 6), (9, 2)])
def test_a_single_leftover_sample_is_dropped_and_is_another_one_each_epoch(count, size):
    batches = list(loader(count, size).epoch(0))
    assert [batch.size for batch in batches] == [size] * (count // size)
    assert len(set(order(batches))) == count - 1
    left = {(set(range(100, 100 + count)) - set(order(loader(count, size).epoch(e)))).pop() for e in range(20)}
    assert len(left) > 1


def test_inputs_targets_and_numbers_belong_together():
    for batch in loader().epoch(1):
        assert batch.inputs[:, 0, 0, 0].tolist() == [i - 99 for i in batch.indices.tolist()]
        assert batch.targets.tolist() == [(i - 100) % 3 for i in batch.indices.tolist()]


def test_the_order_depends_on_seed_and_epoch_only():
    reference = order(loader(seed=5).epoch(7))
    torch.manual_seed(123)
    other = loader(seed=5)
    list(other.epoch(0))
    state = torch.get_rng_state()
    assert order(other.epoch(7)) == reference
    assert torch.equal(torch.get_rng_state(), state)
    orders = [tuple(order(loader(seed=s).epoch(e))) for s in (0, 1, 2, 2**31 - 1) for e in range(4)]
    assert len(set(orders)) == len(orders)


@pytest.mark.parametrize("augmentation", ["none", "basic", "cutout"])
@pytest.mark.parametrize("start", [0, 1, 3, 4])
def test_an_epoch_can_start_at_any_batch(augmentation, start):
    one = loader(23, 6, seed=1, augmentation=augmentation, pad=1, flip=True, cutout=2)
    whole, tail = list(one.epoch(2)), list(one.epoch(2, start))
    assert len(tail) == len(whole) - start
    for a, b in zip(whole[start:], tail, strict=True):
        assert torch.equal(a.inputs, b.inputs)
        assert torch.equal(a.targets, b.targets)
        assert torch.equal(a.indices, b.indices)


def test_augmentation_differs_between_epochs_batches_and_seeds():
    """All samples are alike here, so that only the drawn numbers can make batches differ."""
    data = Samples(torch.rand(1, 1, 8, 8).expand(8, -1, -1, -1), torch.zeros(8).long(), torch.arange(8))
    draws = []
    for seed in (0, 1):
        one = Loader(data, 4, seed, Dataset("x", data, data, 1, pad=2), "basic")
        draws += [batch.inputs.numpy().tobytes() for epoch in (0, 1) for batch in one.epoch(epoch)]
    assert len(set(draws)) == len(draws)


def test_basic_leaves_images_alone_where_no_augmentation_makes_sense():
    plain = list(loader(seed=1).epoch(0))
    for a, b in zip(plain, loader(seed=1, augmentation="basic").epoch(0), strict=True):
        assert torch.equal(a.inputs, b.inputs)


def test_cutout_blanks_a_quarter_of_the_width_where_no_side_is_given():
    for batch in loader(shape=(1, 12, 12), augmentation="cutout").epoch(0):
        blank = (batch.inputs == 0).flatten(1).sum(1)
        assert blank.max() <= 9
        assert blank.min() >= 4  # a 3x3 square whose centre is a corner pixel


def test_augmentation_of_vectors_is_refused():
    with pytest.raises(UsageError, match=r"augmentation basic needs images \(N, C, H, W\).*\(20, 4\).*--augment none"):
        loader(shape=(4,), augmentation="basic")

"""Batches: each sample once an epoch, in an order that seed and epoch alone decide."""

import numpy as np
import pytest
import torch

from sharpkit.data.augment import Normalise
from sharpkit.data.dataset import Dataset
from sharpkit.data.loader import Loader
from sharpkit.data.part import drawn, in_order
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


# ---------------------------------------------------------------------- images that stay bytes

NORMALISE = Normalise((0.5, 0.25, 0.4), (0.2, 0.3, 0.1))


def byte_samples(count=23, side=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    return Samples(images, torch.arange(count) % 3, torch.arange(count), NORMALISE)


def by_hand(image, shift, mirrored, hole, side):
    """One image, pixel by pixel, in the order of the code of DeVries and Taylor: crop, flip, normalise, cutout."""
    channels, height, width = image.shape
    out = np.zeros(image.shape, dtype=np.float64)
    for c in range(channels):
        for i in range(height):
            for j in range(width):
                column = width - 1 - j if mirrored else j
                y, x = i + shift[0], column + shift[1]
                pixel = image[c, y, x] if 0 <= y < height and 0 <= x < width else 0
                blank = hole is not None and all(
                    h - side // 2 <= place < h - side // 2 + side for h, place in zip(hole, (i, j), strict=True)
                )
                out[c, i, j] = 0 if blank else (pixel / 255 - NORMALISE.mean[c]) / NORMALISE.std[c]
    return out


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("augmentation", ["none", "basic", "cutout"])
def test_bytes_are_cropped_flipped_normalised_and_cut_out_in_this_order(augmentation, flip):
    data, pad, side = byte_samples(), 2, 4
    one = Loader(data, 6, 5, Dataset("x", data, data, 3, pad=pad, flip=flip, cutout=side), augmentation)
    seed = 5 * 1_000_003 + 2
    for number, batch in enumerate(one.epoch(2)):
        generator = torch.Generator().manual_seed((seed * 1_000_003 + number + 1) % 2**63)
        count = batch.size
        shifts, mirrored, holes = np.zeros((2, count), int), np.zeros(count, bool), [None] * count
        if augmentation != "none":
            shifts = torch.randint(0, 2 * pad + 1, (2, count, 1), generator=generator).numpy()[..., 0] - pad
            if flip:
                mirrored = torch.rand(count, generator=generator).numpy() < 0.5
        if augmentation == "cutout":
            rows = torch.randint(0, 9, (count, 1), generator=generator)[:, 0].tolist()
            holes = list(zip(rows, torch.randint(0, 9, (count, 1), generator=generator)[:, 0].tolist(), strict=True))
        assert batch.inputs.dtype == torch.float32
        for k in range(count):
            image = data.inputs[batch.indices[k]].numpy()
            expected = by_hand(image, shifts[:, k], mirrored[k], holes[k], side)
            assert np.allclose(batch.inputs[k].numpy(), expected, atol=1e-5)


def test_evaluation_and_draws_normalise_too():
    data = byte_samples(150)
    expected = (data.inputs.double() / 255 - torch.tensor(NORMALISE.mean)[:, None, None]) / torch.tensor(NORMALISE.std)[
        :, None, None
    ]
    batches = list(data.batches(in_order(150, 64)))
    assert [batch.size for batch in batches] == [64, 64, 22]
    assert torch.allclose(torch.cat([batch.inputs for batch in batches]).double(), expected, atol=1e-5)
    generator = torch.Generator().manual_seed(1)
    rows = torch.randperm(150, generator=torch.Generator().manual_seed(1))[:100]
    inputs, targets = drawn(data, 100, generator)
    assert torch.allclose(inputs.double(), expected[rows], atol=1e-5)
    assert torch.equal(targets, rows % 3)
    assert len(drawn(data, 1000, generator)[1]) == 150


def test_bytes_are_stored_once_and_never_changed():
    data = byte_samples()
    before = data.inputs.clone()
    one = Loader(data, 6, 0, Dataset("x", data, data, 3, pad=2, flip=True), "cutout")
    list(one.epoch(0))
    assert torch.equal(data.inputs, before)
    assert data.to(torch.device("cpu")).inputs.data_ptr() == data.inputs.data_ptr()
    assert data.relabelled(data.targets + 1).inputs.data_ptr() == data.inputs.data_ptr()
    assert data.take(torch.tensor([3, 1])).inputs.dtype == torch.uint8

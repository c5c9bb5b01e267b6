"""Augmentation against a plain loop over samples and pixels with the same drawn numbers."""

import numpy as np
import pytest
import torch

from sharpkit.data.augment import Among, Normalise, random_crop, random_cutout, random_flip

SHAPES = [(5, 1, 8, 8), (4, 3, 6, 9), (3, 2, 7, 4), (1, 1, 1, 1)]


def images(shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) + 0.5  # nowhere zero


def stream(seed=3):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pad", [1, 2, 5])
def test_crop_moves_every_image_by_its_own_shift(shape, pad):
    x = images(shape)
    count, channels, height, width = shape
    corner = torch.randint(0, 2 * pad + 1, (2, count, 1), generator=stream()).numpy()[..., 0]
    expected = np.zeros(shape, dtype=np.float32)
    for n in range(count):
        down, right = corner[0, n] - pad, corner[1, n] - pad
        for i in range(height):
            for j in range(width):
                if 0 <= i + down < height and 0 <= j + right < width:
                    for c in range(channels):
                        expected[n, c, i, j] = x[n, c, i + down, j + right]
    assert np.array_equal(random_crop(x, pad, stream()).numpy(), expected)


def test_crop_draws_every_shift():
    pixel = torch.zeros(2000, 1, 5, 5)
    pixel[:, 0, 2, 2] = 1
    places = random_crop(pixel, 2, stream()).flatten(1).argmax(1)
    assert sorted(set(places.tolist())) == list(range(25))


@pytest.mark.parametrize("shape", SHAPES)
def test_flip_mirrors_left_to_right_only(shape):
    x = images(shape)
    chosen = torch.rand(shape[0], generator=stream()).numpy() < 0.5
    expected = np.stack([image[:, :, ::-1] if c else image for image, c in zip(x.numpy(), chosen, strict=True)])
    assert np.array_equal(random_flip(x, stream()).numpy(), expected)


def test_flip_mirrors_half_of_the_images():
    x = torch.arange(2.0).expand(4000, 1, 1, 2)
    mirrored = random_flip(x, stream())[:, 0, 0, 0].mean()
    assert abs(float(mirrored) - 0.5) < 4 * (0.25 / 4000) ** 0.5


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("side", [1, 2, 3, 4, 20])
def test_cutout_blanks_a_square_cut_off_at_the_border(shape, side):
    x = images(shape)
    count, _, height, width = shape
    generator = stream()
    centre_row = torch.randint(0, height, (count, 1), generator=generator).numpy()[:, 0]
    centre_col = torch.randint(0, width, (count, 1), generator=generator).numpy()[:, 0]
    expected = x.numpy().copy()
    for n in range(count):
        top, left = centre_row[n] - side // 2, centre_col[n] - side // 2
        for i in range(max(0, top), min(height, top + side)):
            for j in range(max(0, left), min(width, left + side)):
                expected[n, :, i, j] = 0
    assert np.array_equal(random_cutout(x, side, stream()).numpy(), expected)


@pytest.mark.parametrize("prob", [0.3, 0.5])
def test_cutout_of_some_images_leaves_the_others_and_blanks_the_same_squares(prob):
    x = images((50, 2, 9, 7))
    generator = stream()
    for size in (9, 7):
        torch.randint(0, size, (50, 1), generator=generator)
    hit = torch.rand((50, 1), generator=generator)[:, 0] < prob
    found, every = random_cutout(x, 4, stream(), None, prob), random_cutout(x, 4, stream())
    assert torch.equal(found[hit], every[hit])
    assert torch.equal(found[~hit], x[~hit])
    assert 0 < int(hit.sum()) < 50


def test_cutout_of_a_share_of_a_batch_is_that_of_the_batch():
    x, positions = images((20, 1, 6, 6)), torch.tensor([3, 4, 11, 19])
    share = random_cutout(x[positions], 4, stream(), Among(20, positions), 0.5)
    assert torch.equal(share, random_cutout(x, 4, stream(), None, 0.5)[positions])


def test_cutout_centres_are_all_pixels_alike():
    holes = random_cutout(torch.ones(9000, 1, 3, 3), 1, stream()) == 0
    assert holes.flatten(1).sum(1).eq(1).all()
    counts = holes.sum(0).flatten().double()
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 32  # chi-square, 8 degrees of freedom, p = 1e-4


@pytest.mark.parametrize(
    "augment", [lambda x, g: random_crop(x, 2, g), random_flip, lambda x, g: random_cutout(x, 3, g)]
)
def test_augmentation_leaves_its_input_and_the_global_stream_alone(augment):
    x = images((6, 1, 8, 8))
    before, state = x.clone(), torch.get_rng_state()
    first = augment(x, stream())
    assert torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(augment(x, stream()), first)
    assert not torch.equal(augment(x, stream(4)), first)


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(5, 3, 6, 4), (5, 1, 6, 4), (1, 3, 1, 1), (0, 3, 6, 4)])
def test_bytes_become_the_same_numbers_in_either_memory_format(shape, form):
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = (0.5, 0.3, 0.1)[: shape[1]], (0.2, 0.3, 0.7)[: shape[1]]
    found = Normalise(mean, std)(pixels.to(memory_format=form))
    m, s = (255 * np.float32(v).reshape(-1, 1, 1) for v in (mean, std))
    assert found.dtype == torch.float32
    assert np.array_equal(found.numpy(), (pixels.numpy().astype(np.float32) - m) / s)
    assert found.is_contiguous(memory_format=form)

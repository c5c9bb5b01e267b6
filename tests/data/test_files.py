"""Folders of images: what is found, what a batch holds, and that it depends on nothing but the plan."""

import os
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from sharpkit.data import DATASETS, files
from sharpkit.data.dataset import Dataset
from sharpkit.data.folder import image_folder
from sharpkit.data.loader import Loader
from sharpkit.data.part import drawn, in_order
from sharpkit.data.source import Access
from sharpkit.data.split import split
from sharpkit.errors import InputError
from tests.data import formats
from tests.data.torchvision import torchvision  # noqa: F401

pytestmark = [
    pytest.mark.usefixtures("torchvision"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

MEAN, STD = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))


def names(part):
    return [os.fsdecode(bytes(name)) for name in part.names]


def colours(batch):
    """The colour of every image, in bytes; the images have one."""
    assert batch.inputs.dtype == torch.float32
    assert batch.inputs.shape[1:] == (3, 224, 224)
    pixels = 255 * (batch.inputs * STD[:, None, None] + MEAN[:, None, None])
    return pixels.mean((2, 3)).round().int().tolist()


@pytest.fixture
def two(tmp_path):
    formats.write_images(tmp_path / "train")
    formats.write_images(tmp_path / "val", each=3, first=6)
    return tmp_path


def same(a, b):
    return all(
        torch.equal(x.inputs, y.inputs) and torch.equal(x.targets, y.targets) and torch.equal(x.indices, y.indices)
        for x, y in zip(a, b, strict=True)
    )


# ---------------------------------------------------------------------- what is found


@pytest.mark.parametrize("test", ["val", "test"])
def test_two_folders_are_training_and_test_images(two, test):
    (two / "val").rename(two / test)
    data = image_folder(two, Access())
    assert (len(data.train), len(data.test), data.classes, data.shape) == (18, 9, 3, (3, 224, 224))
    assert data.train.targets.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert names(data.train)[:3] == ["ant/ant_000.JPEG", "ant/ant_001.png", "ant/ant_002.JPEG"]
    assert (data.name, data.augment, data.flip) == (two.name, "basic", True)


def test_the_order_is_that_of_image_folder(tmp_path):
    """Class by class, a class's own files before those in its folders, each in the order of their names."""
    for file in ("b/x.png", "b/B.JPG", "b/sub/a.png", "b/sub/deep/c.jpeg", "B/z.webp", "b/notes.txt", ".git/x.png"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(b"x")
    for i in range(6):
        (tmp_path / f"B/{i}.bmp").write_bytes(b"x")
    data = image_folder(tmp_path, Access())
    parts = (data.train, data.test)
    found = dict(pair for part in parts for pair in zip(part.indices.tolist(), names(part), strict=True))
    expected = [*(f"B/{i}.bmp" for i in range(6)), "B/z.webp", "b/B.JPG", "b/x.png", "b/sub/a.png", "b/sub/deep/c.jpeg"]
    assert [found[i] for i in range(len(found))] == expected


def test_one_folder_is_cut_as_other_data_are(tmp_path):
    formats.write_images(tmp_path, each=9)
    data = image_folder(tmp_path, Access())
    assert torch.bincount(data.test.targets).tolist() == [3, 3, 3]
    assert sorted([*data.train.indices.tolist(), *data.test.indices.tolist()]) == list(range(27))
    assert not set(names(data.train)) & set(names(data.test))


def test_class_numbers_are_those_of_the_training_folders(two):
    (two / "val/ant/ant_006.JPEG").unlink()
    for file in (two / "val/bee").iterdir():
        file.unlink()
    (two / "val/bee").rmdir()
    data = image_folder(two, Access())
    assert data.test.targets.tolist() == [0, 0, 2, 2, 2]


def test_imagenet_is_two_folders_below_the_data_folder(two, tmp_path):
    data = DATASETS["imagenet"](Access(two))
    assert (data.name, len(data.train), len(data.test)) == ("imagenet", 18, 9)


# ---------------------------------------------------------------------- what a batch holds


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_sees_every_image_in_its_order(two, workers):
    test = image_folder(two, Access(workers=workers)).test
    batches = list(test.batches(in_order(9, 4)))
    assert [batch.size for batch in batches] == [4, 4, 1]
    seen = [colour for batch in batches for colour in colours(batch)]
    expected = [(80 * label + 20, 8 * (6 + i) + 10, 128) for label in range(3) for i in range(3)]
    assert np.abs(np.array(seen) - np.array(expected)).max() <= 2  # JPEG
    assert torch.cat([batch.targets for batch in batches]).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(9))


def test_training_cuts_out_a_part_and_mirrors_and_evaluation_takes_the_middle(tmp_path):
    ramp = np.tile(np.linspace(0, 255, 512, dtype=np.uint8), (256, 1))
    for name in ("a", "b"):
        for i in range(30):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(ramp).save(tmp_path / f"{name}/{i}.png")  # grey, and becomes RGB
    data = image_folder(tmp_path, Access())
    (whole,) = data.test.batches(in_order(20, 20))
    row = 255 * (whole.inputs[0, :, 100] * STD[:, None] + MEAN[:, None])
    assert torch.allclose(row[0], torch.linspace(0, 255, 512)[144:368], atol=1.5)
    assert torch.allclose(row[0], row[2], atol=1e-3)
    loader = Loader(data.train, 40, 0, data, "basic")
    (batch,) = loader.epoch(0)
    rises = batch.inputs[:, 0, 0, -1] > batch.inputs[:, 0, 0, 0]
    assert 8 < int(rises.sum()) < 32
    assert len({tuple(image[0, 0, :3].tolist()) for image in batch.inputs}) > 30


def test_cutout_blanks_a_part(two):
    data = image_folder(two, Access())
    for batch in Loader(data.train, 9, 0, data, "cutout").epoch(0):
        blank = (batch.inputs == 0).all(1).flatten(1).sum(1)
        assert blank.min() >= 28 * 28
        assert blank.max() <= 56 * 56


# ---------------------------------------------------------------------- what it depends on


@pytest.mark.parametrize("augmentation", ["none", "basic", "cutout"])
def test_batches_are_the_same_whoever_reads_them(two, augmentation):
    epochs = []
    for workers in (0, 1, 3):
        data = image_folder(two, Access(workers=workers))
        torch.manual_seed(workers)
        state = torch.get_rng_state()
        epochs.append(list(Loader(data.train, 4, 7, data, augmentation).epoch(2)))
        assert torch.equal(torch.get_rng_state(), state)
    assert same(epochs[0], epochs[1])
    assert same(epochs[0], epochs[2])


def test_an_epoch_can_start_at_any_batch_and_decodes_none_before_it(two, monkeypatch):
    data = image_folder(two, Access())
    loader = Loader(data.train, 4, 7, data, "basic")
    whole = list(loader.epoch(1))
    assert len(whole) == len(loader) == 5
    opened = []
    original = Image.open
    monkeypatch.setattr(Image, "open", lambda path: opened.append(path) or original(path))
    assert same(whole[3:], list(loader.epoch(1, 3)))
    assert len(opened) == 18 - 12
    assert same(whole[:1], list(loader.epoch(1, 0, 1)))


def test_epochs_and_seeds_differ(two):
    data = image_folder(two, Access())
    orders = [
        torch.cat([b.indices for b in Loader(data.train, 4, seed, data).epoch(epoch)]).tolist()
        for seed in (0, 1)
        for epoch in (0, 1)
    ]
    assert all(sorted(order) == list(range(18)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4


def test_labels_numbers_and_files_stay_together_through_split_and_noise(two):
    data = image_folder(two, Access())
    parts = split(data, val_frac=0.25, label_noise=0.5, limit=12, seed=3)
    assert (len(parts.train), len(parts.val), parts.noisy_labels) == (9, 3, 4)
    everything = names(data.train)
    for part in (parts.train, parts.val):
        assert names(part) == [everything[i] for i in part.indices.tolist()]
    (batch,) = parts.val.batches(in_order(3, 3))
    assert [round((colour[0] - 20) / 80) for colour in colours(batch)] == batch.targets.tolist()
    (batch,) = parts.train.batches(in_order(9, 9))
    true = torch.tensor([round((colour[0] - 20) / 80) for colour in colours(batch)])
    assert int((true != batch.targets).sum()) == 4


def test_draws_follow_their_generator(two):
    train = image_folder(two, Access()).train
    a, b = (drawn(train, 5, torch.Generator().manual_seed(2)) for _ in range(2))
    assert a[0].shape == (5, 3, 224, 224)
    assert torch.equal(a[0], b[0])
    assert torch.equal(a[1], b[1])


def test_the_checksum_is_of_names_sizes_and_classes_and_reads_nothing(two, monkeypatch):
    first = image_folder(two, Access()).checksum
    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", lambda *a, **k: pytest.fail("a file was opened"))
        assert image_folder(two, Access()).checksum == first
    (two / "train/ant/ant_000.JPEG").rename(two / "train/ant/ant_009.JPEG")
    renamed = image_folder(two, Access()).checksum
    with (two / "val/cat/cat_006.JPEG").open("ab") as file:
        file.write(b"x")
    assert len({first, renamed, image_folder(two, Access()).checksum}) == 3


# ---------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_named_in_one_line(two, workers):
    (two / "train/bee/bee_003.png").write_bytes(b"damaged")
    data = image_folder(two, Access(workers=workers))
    with pytest.raises(InputError) as told:
        list(data.train.batches(in_order(18, 4)))
    assert "bee/bee_003.png: UnidentifiedImageError" in told.value.message
    assert "\n" not in told.value.message


@pytest.mark.skipif(sys.platform == "win32", reason="processes are forked")
def test_a_reader_that_is_killed_is_told(two, monkeypatch):
    data = image_folder(two, Access(workers=2))
    monkeypatch.setattr(files._Decoder, "__getitems__", lambda self, keys: os._exit(9))
    with pytest.raises(InputError, match=r"reading images failed: .*"):
        list(data.train.batches(in_order(18, 4)))


def test_augmentation_needs_images_of_either_kind(two):
    data = image_folder(two, Access())
    assert len(Loader(data.train, 4, 0, Dataset("x", data.train, data.test, 3), "basic")) == 5

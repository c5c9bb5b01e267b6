"""The same files read by torchvision, where it can be imported."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from sharpkit.data import DATASETS
from sharpkit.data.augment import PLAIN
from sharpkit.data.folder import image_folder
from sharpkit.data.part import in_order
from sharpkit.data.source import Access
from tests.data import formats
from tests.data.torchvision import works

pytestmark = pytest.mark.skipif(not works(), reason="torchvision cannot be imported")


def normalised(part):
    (batch,) = part.batches(in_order(len(part), len(part)), PLAIN)
    return batch.inputs


@pytest.mark.parametrize(
    ("name", "kind", "write"),
    [
        ("cifar10", "CIFAR10", formats.write_cifar10),
        ("cifar100", "CIFAR100", formats.write_cifar100),
        ("fashion-mnist", "FashionMNIST", lambda root: formats.write_fashion_mnist(root, packed=False)),
    ],
)
def test_images_and_labels_are_those_of_torchvision(tmp_path, monkeypatch, name, kind, write):
    from torchvision import datasets
    from torchvision.transforms import v2

    write(tmp_path)
    (tmp_path / "cifar-10-batches-py").mkdir(exist_ok=True)
    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(datasets.CIFAR10, "_load_meta", lambda self: None)
    data = DATASETS[name](Access(tmp_path))
    norm = data.train.normalise
    transform = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(norm.mean, norm.std)])
    for part, train in ((data.train, True), (data.test, False)):
        theirs = getattr(datasets, kind)(tmp_path, train=train, transform=transform)
        assert part.targets.tolist() == list(theirs.targets)
        assert torch.allclose(torch.stack([image for image, _ in theirs]), normalised(part), atol=1e-5)


def test_svhn_is_that_of_torchvision(tmp_path, monkeypatch):
    from torchvision import datasets

    formats.write_svhn(tmp_path)
    monkeypatch.setattr(datasets.SVHN, "_check_integrity", lambda self: True)
    data = DATASETS["svhn"](Access(tmp_path))
    for part, split in ((data.train, "train"), (data.test, "test")):
        theirs = datasets.SVHN(tmp_path, split=split)
        assert np.array_equal(part.inputs.numpy(), theirs.data)
        assert part.targets.tolist() == theirs.labels.tolist()


def test_a_folder_is_that_of_torchvision(tmp_path):
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    generator = np.random.default_rng(0)
    for part, sizes in (("train", [(300, 270), (256, 500), (90, 100)]), ("val", [(400, 300)])):
        for name in ("a", "B", "c"):
            (tmp_path / part / name / "deep").mkdir(parents=True)
            for i, size in enumerate(sizes):
                pixels = generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / ("deep" if i == 1 else "") / f"{i}.jpg")
    data = image_folder(tmp_path, Access())
    transform = v2.Compose(
        [
            v2.Resize(256),
            v2.CenterCrop(224),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    for part, root in ((data.train, "train"), (data.test, "val")):
        theirs = ImageFolder(tmp_path / root, transform=transform)
        ours = [os.path.join(part.root, os.fsdecode(bytes(name))) for name in part.names]  # noqa: PTH118
        assert [path for path, _ in theirs.samples] == ours
        assert part.targets.tolist() == theirs.targets
        assert torch.allclose(torch.stack([image for image, _ in theirs]), normalised(part), atol=1e-5)

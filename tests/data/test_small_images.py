"""CIFAR, Fashion-MNIST and SVHN from small files in their true formats, and what is refused in damaged ones."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from sharpkit.data import DATASETS
from sharpkit.data.augment import Normalise
from sharpkit.data.source import Access
from sharpkit.errors import InputError
from tests.data import formats

WRITERS = {
    "cifar10": formats.write_cifar10,
    "cifar100": formats.write_cifar100,
    "fashion-mnist": lambda root: formats.write_fashion_mnist(root, packed=True),
    "svhn": formats.write_svhn,
}
NUMBERS = {  # crop, flip and cutout
    "cifar10": (4, True, 16),
    "cifar100": (4, True, 8),
    "fashion-mnist": (4, True, 8),
    "svhn": (4, False, 20),
}


def load(name, folder):
    return DATASETS[name](Access(folder))


@pytest.fixture(params=WRITERS)
def written(request, tmp_path):
    return request.param, tmp_path, WRITERS[request.param](tmp_path)


def test_every_image_and_label_is_read_in_its_order(written):
    name, folder, parts = written
    data = load(name, folder)
    for part, (images, labels) in zip((data.train, data.test), parts, strict=True):
        assert part.inputs.dtype == torch.uint8
        assert np.array_equal(part.inputs.numpy(), images)
        assert part.targets.tolist() == labels
        assert part.indices.tolist() == list(range(len(labels)))
        assert part.inputs.is_contiguous()
    assert (data.name, data.classes) == (name, DATASETS[name].size.classes)
    assert data.shape == DATASETS[name].size.shape
    assert (data.pad, data.flip, data.cutout, data.augment) == (*NUMBERS[name], "basic")


def test_a_folder_of_the_name_is_looked_into_first(tmp_path):
    formats.write_svhn(tmp_path)
    own = formats.write_svhn(tmp_path / "svhn")
    (tmp_path / "train_32x32.mat").write_bytes(b"damaged")
    assert load("svhn", tmp_path).train.targets.tolist() == own[0][1]
    assert DATASETS["svhn"].where.text(tmp_path) == str(tmp_path / "svhn")


def test_idx_files_may_be_packed_or_not(tmp_path):
    packed = formats.write_fashion_mnist(tmp_path / "a", packed=True)
    formats.write_fashion_mnist(tmp_path / "b", packed=False)
    for folder in ("a", "b"):
        assert np.array_equal(load("fashion-mnist", tmp_path / folder).train.inputs.numpy(), packed[0][0])


def in_bytes(content):
    return {key.encode(): value for key, value in content.items()}


FORMS = {
    "as torchvision reads them": dict,
    "keys in bytes": in_bytes,
    "labels in an array": lambda c: {**c, "fine_labels": np.array(c["fine_labels"])},
    "labels in a narrow array": lambda c: {**c, "fine_labels": np.array(c["fine_labels"], np.uint8)},
    "labels in a column": lambda c: {**c, "fine_labels": np.array(c["fine_labels"])[:, None]},
    "labels of NumPy": lambda c: {**c, "fine_labels": [np.int32(label) for label in c["fine_labels"]]},
    "labels in a tuple": lambda c: {**c, "fine_labels": tuple(c["fine_labels"])},
    "rows in a list": lambda c: {**c, "data": list(c["data"])},
    "rows of lists": lambda c: {**c, "data": c["data"].tolist()},
    "wide numbers": lambda c: {**c, "data": c["data"].astype(np.int64)},
    "images": lambda c: {**c, "data": c["data"].reshape(-1, 3, 32, 32)},
    "channels last": lambda c: {**c, "data": c["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)},
    "all of it": lambda c: in_bytes({
        **c, "data": c["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), "fine_labels": np.array(c["fine_labels"])
    }),
}  # fmt: skip


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("form", FORMS)
def test_pickles_that_python_3_wrote_are_read_too(tmp_path, form, protocol):
    (images, labels), _ = formats.write_cifar100(tmp_path, 20)
    train = tmp_path / "cifar-100-python/train"
    content = pickle.loads(train.read_bytes(), encoding="latin1")  # what torchvision does
    train.write_bytes(pickle.dumps(FORMS[form](content), protocol=protocol))
    read = load("cifar100", tmp_path).train
    assert np.array_equal(read.inputs.numpy(), images)
    assert read.inputs.dtype == torch.uint8
    assert read.targets.tolist() == labels


def test_the_next_class_of_a_superclass_in_a_ring(tmp_path):
    formats.write_cifar100(tmp_path)
    assert load("cifar100", tmp_path).mistaken == tuple((label + 20) % 100 for label in range(100))


def test_the_pairs_of_cifar10():
    """Patrini et al. (2017), by name."""
    from sharpkit.data.cifar import _MISTAKEN_10

    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    pairs = {names[a]: names[b] for a, b in enumerate(_MISTAKEN_10) if a != b}
    expected = {"truck": "automobile", "bird": "airplane", "deer": "horse", "cat": "dog", "dog": "cat"}
    assert pairs == expected


# ---------------------------------------------------------------------- missing and damaged


def test_a_missing_set_says_where_it_was_looked_for_and_what_to_do(tmp_path):
    for name in WRITERS:
        assert not DATASETS[name].where.holds(tmp_path)
        with pytest.raises(InputError) as told:
            load(name, tmp_path)
        assert f"the data set {name} is missing" in told.value.message
        assert f"{tmp_path / name} or {tmp_path}" in told.value.message
        assert "--data-dir" in told.value.hint
        assert "--download" in told.value.hint


def test_a_file_that_is_missing_among_others_is_named(tmp_path):
    formats.write_cifar10(tmp_path / "cifar10")
    (tmp_path / "cifar10/cifar-10-batches-py/data_batch_3").unlink()
    with pytest.raises(InputError, match=r"cifar-10-batches-py/data_batch_3 is not in .*/cifar10,"):
        load("cifar10", tmp_path)


def test_a_truncated_file_is_refused(written):
    name, folder, _ = written
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in files:
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(InputError, match="cannot read"):
            load(name, folder)
        path.write_bytes(whole)
    load(name, folder)


@pytest.mark.parametrize("junk", [b"", b"\x00", b"not what it should be" * 50])
def test_a_file_of_something_else_is_refused(written, junk):
    name, folder, _ = written
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            path.write_bytes(junk)
    with pytest.raises(InputError, match="cannot read"):
        load(name, folder)


def test_a_pickle_that_would_run_code_is_refused_and_does_not(tmp_path):
    formats.write_cifar10(tmp_path)
    file = tmp_path / "cifar-10-batches-py/test_batch"
    mark = tmp_path / "mark"
    for module, name in (("posix", "system"), ("builtins", "eval"), ("numpy.lib.npyio", "load"), ("numpy", "load")):
        file.write_bytes(f"c{module}\n{name}\n(Vtouch {mark}\ntR.".encode())
        with pytest.raises(InputError, match=rf"it names {module}\.{name}"):
            load("cifar10", tmp_path)
    assert not mark.exists()


def test_bytes_of_a_pickle_are_not_taken_for_addresses(tmp_path):
    class Forged:
        def __reduce__(self):
            return np.ndarray, ((1,), "O", b"\x01" * 8)

    formats.write_cifar10(tmp_path)
    (tmp_path / "cifar-10-batches-py/test_batch").write_bytes(pickle.dumps({"data": Forged()}))
    with pytest.raises(InputError, match="it builds an array in place"):
        load("cifar10", tmp_path)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"data": np.zeros((8, 3071), np.uint8)}, "rows of 3072 bytes"),
        ({"data": "x"}, "rows of 3072 bytes"),
        ({"labels": [0] * 7}, "has not one of labels for each of its 8 images"),
        ({"data": np.zeros((8, 3072))}, "its data are float64 numbers, and not whole ones from 0 to 255"),
        ({"data": np.full((8, 3072), 256)}, "its data go from 256 to 256, and not from 0 to 255"),
        ({"data": [[0] * 3072] * 7 + [[0]]}, "rows of 3072 bytes"),
        ({"labels": np.zeros((8, 8), int)}, "has not one of labels for each of its 8 images"),
        ({"labels": None}, "has not one of labels for each of its 8 images"),
        ({"labels": np.arange(8) / 2}, "its labels are float64 and not whole numbers"),
        ({"labels": [True] * 8}, "its labels are bool and not whole numbers"),
        ({"labels": [2**70] * 8}, "not whole numbers"),
        ({"labels": ["0"] * 8}, "not whole numbers"),
        ({"labels": [10] * 8}, "class number 10, allowed are 0 to 9"),
        ({"labels": [-1] * 8}, "class numbers 0, 1"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(tmp_path, change, why):
    formats.write_cifar10(tmp_path)
    file = tmp_path / "cifar-10-batches-py/data_batch_2"
    content = pickle.loads(file.read_bytes(), encoding="latin1")
    file.write_bytes(pickle.dumps({**content, **change}))
    with pytest.raises(InputError, match=why) as told:
        load("cifar10", tmp_path)
    assert "class number" in why or "store data and labels as in the published file" in told.value.hint


@pytest.mark.parametrize(
    "change", [lambda raw: b"\x00\x00\x0d" + raw[3:], lambda raw: raw[:7] + b"\x29" + raw[8:], lambda raw: raw + b"x"]
)
def test_an_idx_file_whose_header_lies_is_refused(tmp_path, change):
    formats.write_fashion_mnist(tmp_path, packed=False)
    file = tmp_path / "FashionMNIST/raw/train-images-idx3-ubyte"
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(InputError, match=r"no IDX file|it holds"):
        load("fashion-mnist", tmp_path)


def test_a_file_that_may_not_be_read_is_told(tmp_path, monkeypatch):
    formats.write_cifar10(tmp_path)

    def refuse(self, *arguments, **options):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"cifar10 in .* cannot be read.*Permission denied"):
        load("cifar10", tmp_path)


# ---------------------------------------------------------------------- what they are to a run


def test_the_checksum_follows_every_pixel_and_label(tmp_path):
    formats.write_cifar10(tmp_path)
    file = tmp_path / "cifar-10-batches-py/data_batch_2"
    first = load("cifar10", tmp_path).checksum
    assert load("cifar10", tmp_path).checksum == first
    content = pickle.loads(file.read_bytes(), encoding="latin1")
    for key, change in (("data", content["data"] ^ np.uint8(1)), ("labels", content["labels"][::-1])):
        file.write_bytes(formats.pickle_of_python_2({**content, key: change}))
        assert load("cifar10", tmp_path).checksum != first


def test_the_constants_are_mean_and_standard_deviation_of_pixels_in_0_1():
    images = torch.as_tensor(formats.pictures(50, 3, 8, 8))
    pixels = images.double() / 255
    normalise = Normalise(tuple(pixels.mean((0, 2, 3)).tolist()), tuple(pixels.std((0, 2, 3)).tolist()))
    out = normalise(images)
    assert out.dtype == torch.float32
    assert float(out.mean((0, 2, 3)).abs().max()) < 1e-6
    assert float((out.std((0, 2, 3)) - 1).abs().max()) < 1e-6

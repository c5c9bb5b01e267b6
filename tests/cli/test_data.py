"""Data sets on the command line: listed, trained on, resumed, missing, damaged, downloaded."""

import shutil
import sys
from pathlib import Path

import pytest

from sharpkit.data import DATASETS
from tests.data import formats

WORDS = ("--epochs", "1", "--limit", "20", "-b", "9", "--threads", "1", "--workers", "0")


@pytest.fixture
def cifar10(tmp_path):
    formats.write_cifar10(tmp_path / "data")
    return ("--data", "cifar10", "--data-dir", "data")


def listed(sharpkit, *words):
    header, *rows = [line.split("\t") for line in sharpkit("ls", "data", *words).stdout.splitlines()]
    return {row[0]: dict(zip(header, row, strict=True)) for row in rows}


def test_the_list_says_how_large_and_where(sharpkit, cifar10, monkeypatch):
    rows = listed(sharpkit, "--data-dir", "data")
    shown = rows["cifar10"]
    assert (shown["training"], shown["test"], shown["shape"], shown["classes"]) == ("50000", "10000", "3x32x32", "10")
    assert (shown["there"], shown["place"]) == ("yes", "data")
    assert (rows["svhn"]["there"], rows["svhn"]["place"]) == ("no", "data/svhn")
    assert (rows["digits"]["there"], rows["digits"]["place"]) == ("yes", "package scikit-learn")
    monkeypatch.setenv("SHARPKIT_DATA_DIR", "data")
    assert listed(sharpkit)["cifar10"] == shown
    monkeypatch.delenv("SHARPKIT_DATA_DIR")
    monkeypatch.setenv("HOME", str(Path.cwd()))
    assert listed(sharpkit)["svhn"]["place"] == str(Path.cwd() / ".cache/sharpkit/svhn")


def test_a_data_set_from_disk_is_trained_on_and_gone_on_with_elsewhere(sharpkit, cifar10, monkeypatch):
    done = sharpkit("train", *cifar10, *WORDS, "--json")
    assert done.code == 0, done.stderr
    assert done.json["run_dir"] == "runs/cifar10-cnn-sam-s0"
    assert (done.json["args"]["augment"], done.json["args"]["data_dir"]) == ("basic", "data")
    Path("data").rename("moved")
    run = "runs/cifar10-cnn-sam-s0"
    assert "cifar10 is missing" in sharpkit("train", "--resume", run).told
    assert sharpkit("train", "--resume", run, "--data-dir", "moved").code == 0
    monkeypatch.setenv("SHARPKIT_DATA_DIR", "moved")
    assert sharpkit("train", "--data", "cifar10", *WORDS, "--resume", "auto").stdout == f"{run}/ckpt.pt\n"


def test_a_checkpoint_is_measured_where_its_data_are_now(sharpkit, cifar10, monkeypatch):
    sharpkit("train", *cifar10, *WORDS, "--out", "r")
    Path("data").rename("moved")
    assert "cifar10 is missing" in sharpkit("hessian", "r", "-n").told
    for command in ("hessian", "landscape", "sharpness", "graddiff", "gradnorm-qq"):
        assert sharpkit(command, "r", "-n", "--data-dir", "moved").code == 0
    monkeypatch.setenv("SHARPKIT_DATA_DIR", "moved")
    assert sharpkit("hessian", "r", "-n").code == 0


def test_a_run_is_not_gone_on_with_on_other_data(sharpkit, fails, cifar10):
    sharpkit("train", *cifar10, *WORDS, "--out", "r")
    batch = Path("data/cifar-10-batches-py/data_batch_1")
    content = bytearray(batch.read_bytes())
    content[len(content) // 2] ^= 1  # a pixel
    batch.write_bytes(content)
    assert "the data cifar10 are not those" in fails(3, "train", "--resume", "r")


@pytest.mark.parametrize(("kind", "replaced"), [("symmetric", 10), ("asymmetric", 4)])
def test_label_noise_of_both_kinds(sharpkit, cifar10, kind, replaced):
    words = ("--label-noise", "0.5", "--noise-kind", kind, "--val-frac", "0")
    done = sharpkit("train", *cifar10, *WORDS, *words, "-n")
    rows = dict(line.split("\t") for line in done.stdout.splitlines())
    assert abs(int(rows["noisy_labels"]) - replaced) <= (0 if kind == "symmetric" else 3)


IMAGES = [name for name, source in DATASETS.items() if source.size.shape and name not in ("digits", "mnist5k")]


@pytest.mark.parametrize("name", IMAGES)
def test_missing_data_are_told_in_one_line(fails, name):
    told = fails(3, "train", "--data", name, "--data-dir", "d")
    assert f"the data set {name} is missing: there is no " in told
    assert f"d/{name} or d; put " in told
    assert "--data-dir" in told
    assert ("--download" in told) == (name != "imagenet")
    assert not Path("runs").exists()


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion-mnist", "svhn"])
def test_a_download_without_a_network_is_told_in_one_line(fails, name, monkeypatch):
    def unreachable(url, timeout):
        raise OSError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    told = fails(3, "train", "--data", name, "--data-dir", "d", "--download")
    assert "cannot download http" in told
    assert f"put it into d/{name}" in told
    assert not Path("d").exists()


def test_a_damaged_file_is_told_in_one_line(fails, cifar10):
    Path("data/cifar-10-batches-py/data_batch_4").write_bytes(b"damaged")
    assert "cannot read data/cifar-10-batches-py/data_batch_4: " in fails(3, "train", *cifar10)


@pytest.mark.parametrize("limit", ["2", "7", "1000000"])
def test_limit_is_for_every_data_set(sharpkit, cifar10, limit):
    done = sharpkit("train", *cifar10, "--limit", limit, "--val-frac", "0", "--threads", "1", "-n")
    assert f"\ntraining_samples\t{min(int(limit), 40)}\n" in done.stdout


# ---------------------------------------------------------------------- folders of images


def test_a_folder_that_does_not_exist(fails):
    assert "the folder no/where does not exist" in fails(3, "train", "--data", "no/where")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda root: root.mkdir(), "has 0 class folders"),
        (lambda root: formats.write_images(root, ("ant",)), "has 1 class folders"),
        (lambda root: formats.write_images(root / "train"), "neither test/ nor val/"),
        (lambda root: (formats.write_images(root), (root / "dog").mkdir()), "dog holds no images"),
        (
            lambda root: (formats.write_images(root / "train"), formats.write_images(root / "val", ("ant", "dog"))),
            "has a class 'dog' that",
        ),
    ],
)
def test_folders_that_do_not_fit(fails, make, told):
    make(Path("pictures"))
    assert told in fails(3, "train", "--data", "pictures")


def test_a_val_folder_without_class_folders_is_told_for_imagenet(fails):
    formats.write_images(Path("d/imagenet/train"))
    Path("d/imagenet/val").mkdir()
    told = fails(3, "train", "--data", "imagenet", "--data-dir", "d")
    assert "d/imagenet/val has no class folders; sort its images" in told


def test_without_torchvision_a_folder_is_refused_with_the_remedy(fails, monkeypatch):
    formats.write_images(Path("pictures"))
    for module in [m for m in sys.modules if m.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    told = fails(3, "train", "--data", "pictures")
    assert "a data set of image files needs torchvision, which is not installed; pip install" in told
    shutil.rmtree("pictures")


@pytest.mark.parametrize("workers", ["-1", "x", "1.5", "100000"])
def test_a_number_of_workers_that_is_none(fails, workers):
    assert "allowed are auto and 0, 1, ..." in fails(2, "train", "--workers", workers)

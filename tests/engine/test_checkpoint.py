"""Checkpoint files: whole or not at all, read without running code, refused with a reason."""

import errno
import io
import os
import pickle
import zipfile

import pytest
import torch
from torch import nn

from sharpkit.engine import checkpoint
from sharpkit.engine.atomic import write_atomically
from sharpkit.engine.checkpoint import VERSION, foreign_names, load, located, read, save
from sharpkit.errors import InputError
from tests.core.support import bits

CONTENT = {"model": {"w": torch.arange(6.0).view(2, 3)}, "step": 3, "nested": [1, None, {"a": 2.5, "b": "x"}]}


def one_line(error):
    text = str(error)
    return "\n" not in text and "\x1b" not in text and "weights_only" not in text


def test_what_is_saved_is_loaded(tmp_path):
    save(tmp_path / "c.pt", CONTENT)
    document = load(tmp_path / "c.pt")
    assert bits({key: document[key] for key in CONTENT}) == bits(CONTENT)
    assert document["version"] == VERSION
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]
    torch.load(tmp_path / "c.pt", weights_only=True)


@pytest.mark.parametrize(
    "raised", [ValueError("x"), OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), MemoryError()]
)
def test_a_writer_that_raises_midway_leaves_the_old_file_alone(tmp_path, raised):
    path = tmp_path / "c.pt"
    path.write_bytes(b"old")

    def write(file):
        file.write(b"half of the new")
        raise raised

    with pytest.raises((InputError, type(raised))):
        write_atomically(path, write)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]


def test_a_full_disk_is_told_in_one_line_with_what_is_left(tmp_path, monkeypatch):
    save(tmp_path / "c.pt", CONTENT)

    def full(document, file):
        file.write(b"x")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint.torch, "save", full)
    with pytest.raises(InputError) as told:
        save(tmp_path / "c.pt", {"step": 4})
    message = f"cannot write {tmp_path / 'c.pt'}: No space left on device"
    assert (told.value.message, told.value.exit_code) == (message, 3)
    assert "the last good c.pt is kept; free space" in told.value.hint
    assert load(tmp_path / "c.pt")["step"] == 3


def test_a_disk_that_fills_up_in_the_middle_of_torch_save_is_named(tmp_path, monkeypatch):
    """torch's zip writer swallows the error of the file underneath."""

    class Full(io.FileIO):
        def write(self, data):
            if self.tell() > 400:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    monkeypatch.setattr(type(tmp_path), "open", lambda path, mode: io.BufferedWriter(Full(path, mode), 64))
    with pytest.raises(InputError, match="No space left on device"):
        save(tmp_path / "c.pt", {"w": torch.zeros(1000)})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"cannot write .*No such file or directory"):
        save(tmp_path / "nowhere/c.pt", CONTENT)


@pytest.fixture
def good(tmp_path):
    save(tmp_path / "c.pt", CONTENT)
    return tmp_path / "c.pt"


@pytest.mark.parametrize("part", [0, 1, 4, 100, 0.3, 0.6, 0.9, -1])
def test_a_cut_file_is_refused(good, part):
    whole = good.read_bytes()
    good.write_bytes(whole[: int(part * len(whole)) if isinstance(part, float) else part])
    with pytest.raises(InputError, match=r"c\.pt is no readable checkpoint") as told:
        load(good)
    assert one_line(told.value)


def test_a_file_with_one_wrong_byte_among_its_numbers_is_refused(good):
    """The container has a checksum of every tensor; torch does not look at it."""
    whole = bytearray(good.read_bytes())
    with zipfile.ZipFile(good) as file:
        info = next(i for i in file.infolist() if i.filename.endswith("data/0"))
    place = whole.index(CONTENT["model"]["w"].numpy().tobytes())
    assert place > info.header_offset
    whole[place + 2] ^= 1
    good.write_bytes(whole)
    with pytest.raises(InputError, match="damaged"):
        load(good)


def damaged(document):
    file = io.BytesIO()
    torch.save(document, file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello", r"no readable checkpoint"),
        (b"", r"no readable checkpoint"),
        (pickle.dumps([1, 2]), r"no readable checkpoint|holds list"),
        (damaged([1, 2]), r"holds list, allowed is a dict"),
        (damaged(nn.Linear(2, 2)), r"no readable checkpoint"),
        (damaged({"a": 1}), r"is no sharpkit checkpoint; give|is no sharpkit checkpoint \(give the ckpt\.pt"),
        (damaged({"format": "other", "version": 1}), r"is no sharpkit checkpoint"),
        (damaged({"format": checkpoint.FORMAT}), r"checkpoint"),
        (damaged({"format": checkpoint.FORMAT, "version": "x"}), r"checkpoint"),
        (
            damaged({"format": checkpoint.FORMAT, "version": VERSION + 1}),
            rf"checkpoint version {VERSION + 1}, this sharpkit reads up to {VERSION} \(install a newer",
        ),
    ],
    ids=range(10),
)
def test_other_files_are_refused_in_one_line(tmp_path, content, message):
    (tmp_path / "c.pt").write_bytes(content)
    with pytest.raises(InputError, match=message) as told:
        load(tmp_path / "c.pt")
    assert one_line(told.value)


def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    (tmp_path / "c.pt").write_bytes(damaged({"format": checkpoint.FORMAT, "version": 1, "x": Evil()}))
    with pytest.raises(InputError, match="no readable checkpoint") as told:
        load(tmp_path / "c.pt")
    assert one_line(told.value)
    assert not (tmp_path / "ran").exists()


class Shell:
    """A pickle of it calls a function of one's choice."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_named_and_runs_when_it_is_trusted(tmp_path, zipped):
    torch.save(
        {"w": torch.ones(2), "x": Shell(tmp_path / "ran")}, tmp_path / "c.pt", _use_new_zipfile_serialization=zipped
    )
    assert foreign_names(tmp_path / "c.pt") == ["posix.mkdir"]
    with pytest.raises(InputError, match=r"to read it is to run posix\.mkdir .*--trust-checkpoint") as told:
        read(tmp_path / "c.pt")
    assert one_line(told.value)
    assert not (tmp_path / "ran").exists()
    assert read(tmp_path / "c.pt", trust=True)["w"].tolist() == [1, 1]
    assert (tmp_path / "ran").exists()


def test_a_run_is_never_gone_on_with_by_running_code(tmp_path):
    torch.save({"format": checkpoint.FORMAT, "version": 1, "x": Shell(tmp_path / "ran")}, tmp_path / "c.pt")
    with pytest.raises(InputError, match="to read it is to run"):
        load(tmp_path / "c.pt")
    assert not (tmp_path / "ran").exists()


def test_code_that_is_trusted_and_fails_is_told_in_one_line(tmp_path):
    torch.save({"w": torch.ones(2), "x": Shell(tmp_path / "no/folder")}, tmp_path / "c.pt")
    with pytest.raises(InputError, match=r"c\.pt cannot be read: FileNotFoundError.*state_dict saved alone") as told:
        read(tmp_path / "c.pt", trust=True)
    assert one_line(told.value)


def test_a_whole_module_is_its_state_dict_when_it_is_trusted(tmp_path):
    model = nn.Linear(2, 2)
    torch.save(model, tmp_path / "c.pt")
    with pytest.raises(InputError, match=r"to read it is to run .*torch\.nn\.modules\.linear\.Linear"):
        read(tmp_path / "c.pt")
    assert bits(dict(read(tmp_path / "c.pt", trust=True))) == bits(dict(model.state_dict()))


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"the checkpoint .*c\.pt does not exist"):
        read(tmp_path / "c.pt")


def test_a_run_directory_stands_for_its_checkpoint(tmp_path):
    assert located(tmp_path) == tmp_path / "ckpt.pt"
    assert located(tmp_path / "epoch-3.pt") == tmp_path / "epoch-3.pt"

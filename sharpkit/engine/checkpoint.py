"""Checkpoint files: written whole or not at all, read without running code, versioned."""

from __future__ import annotations

import os
import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import nn

from sharpkit.errors import InputError, one_line

FORMAT = "sharpkit.checkpoint"
VERSION = 1


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file under a temporary name, flush it to the disk, and rename it.

    Whoever reads the path, at any moment and after a crash, sees the old file or the new one.

    Args:
        path: Where the file ends up.
        write: Called with the open binary file.

    Raises:
        InputError: If the disk is full or the place cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_directory(path.parent)
    except (OSError, RuntimeError) as error:
        reason = _system_reason(error) or one_line(error)
        kept = f"the last good {path.name} is kept; " if path.exists() else ""
        raise InputError(f"cannot write {path}: {reason}", f"{kept}free space there or give another --out") from error
    finally:
        temporary.unlink(missing_ok=True)


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint."""
    document = {"format": FORMAT, "version": VERSION, **content}
    write_atomically(path, lambda file: torch.save(document, file))


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint of this tool onto the CPU, without running code from the file.

    Raises:
        InputError: If it is missing, damaged, of another program or of a newer version.
    """
    document = read(path)
    if document.get("format") != FORMAT:
        raise InputError(f"{path} is no sharpkit checkpoint", "give the ckpt.pt of a run directory")
    version = document.get("version")
    if type(version) is not int:
        raise InputError(f"{path} has checkpoint version {version!r}, allowed is a number", "it may be damaged")
    if version > VERSION:
        raise InputError(
            f"{path} has checkpoint version {version}, this sharpkit reads up to {VERSION}",
            "install a newer sharpkit",
        )
    return document


def read(path: Path) -> dict[str, Any]:
    """Read any file of plain tensors that torch.save wrote.

    Raises:
        InputError: If it is missing, damaged, or would run code.
    """
    if not path.is_file():
        raise InputError(f"the checkpoint {path} does not exist", "give a checkpoint file or a run directory")
    try:
        # torch does not compare the checksums that it writes, and a flipped bit is a wrong number.
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as parts:
                if (wrong := parts.testzip()) is not None:
                    raise zipfile.BadZipFile(f"{wrong} does not have the checksum it was written with")
        with warnings.catch_warnings(action="ignore"):
            document: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} is no readable checkpoint: it holds no plain tensors, or code that is not run",
            "give a file that torch.save wrote from a state_dict",
        ) from error
    except Exception as error:  # whatever a reader of arbitrary bytes may raise
        raise InputError(
            f"{path} is no readable checkpoint: {one_line(error)}", "it may be damaged or cut off"
        ) from error
    if not isinstance(document, dict):
        raise InputError(f"{path} holds {type(document).__name__}, allowed is a dict", "give another checkpoint")
    return cast("dict[str, Any]", document)


def located(path: Path) -> Path:
    """Return the checkpoint file that a path stands for: itself, or the ckpt.pt in a run directory."""
    return path / "ckpt.pt" if path.is_dir() else path


def load_weights(model: nn.Module, path: Path) -> None:
    """Load the model weights of a checkpoint, all of them or none.

    Args:
        model: What the weights go into.
        path: A checkpoint of this tool, a run directory, or a plain state_dict.

    Raises:
        InputError: If names or shapes differ.
    """
    document = read(located(path))
    stored = document["model"] if document.get("format") == FORMAT else document
    load_state(model, stored, str(path))
    if not all_finite(model):
        raise InputError(f"{path} holds weights that are not finite", "give a checkpoint from before it diverged")


def all_finite(model: nn.Module) -> bool:
    """Return whether every number in a model's parameters and buffers is finite."""
    held = [value for value in model.state_dict().values() if value.is_floating_point() or value.is_complex()]
    return not held or bool(torch.stack([torch.isfinite(value).all() for value in held]).all())


def load_state(model: nn.Module, stored: Mapping[str, Any], where: str) -> None:
    """Load a state dict whose names and shapes are the model's own.

    Raises:
        InputError: If names or shapes differ; the model is unchanged then.
    """
    own = model.state_dict()
    differences = [f"{name}: missing" for name in own if name not in stored]
    differences += [f"{name}: not in this model" for name in stored if name not in own]
    for name in own.keys() & stored.keys():
        theirs = getattr(stored[name], "shape", None)
        if theirs != own[name].shape:
            differences.append(f"{name}: {_shape(theirs)}, here {_shape(own[name].shape)}")
    if differences:
        shown = "; ".join(sorted(differences)[:3])
        more = f"; and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise InputError(
            f"{where} is a checkpoint of another model: {shown}{more}", "give the --model it was made with"
        )
    model.load_state_dict(stored)


def _shape(shape: Any) -> str:
    return "no tensor" if shape is None else "x".join(str(n) for n in shape) or "scalar"


def _system_reason(error: BaseException | None) -> str | None:
    """Return what the operating system said first; torch.save raises its own error on top of a failed write."""
    while error is not None:
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
        error = error.__context__
    return None


def _sync_directory(path: Path) -> None:
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

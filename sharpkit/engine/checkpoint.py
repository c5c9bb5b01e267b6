"""Checkpoint files: written whole or not at all, read without running code, versioned."""

from __future__ import annotations

import io
import pickle
import pickletools
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from sharpkit.engine.atomic import write_atomically
from sharpkit.errors import InputError, one_line

FORMAT = "sharpkit.checkpoint"
VERSION = 1

_LEGACY_PICKLES = 5  # of a file that torch.save wrote before it wrote zip archives


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


def read(path: Path, *, trust: bool = False) -> dict[str, Any]:
    """Read any file that torch.save wrote; of a whole module, its state_dict.

    Args:
        path: The file.
        trust: Whether code that a file needs may run; a file of plain tensors needs none.

    Raises:
        InputError: If it is missing, damaged, or would run code that is not trusted.
    """
    if not path.is_file():
        raise InputError(f"the checkpoint {path} does not exist", "give a checkpoint file or a run directory")
    try:
        # torch does not compare the checksums that it writes, and a flipped bit is a wrong number.
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as parts:
                if (wrong := parts.testzip()) is not None:
                    raise zipfile.BadZipFile(f"{wrong} does not have the checksum it was written with")
        document = _unpickled(path, plain=True)
    except pickle.UnpicklingError as error:
        needed = foreign_names(path)
        if not needed:
            raise InputError(
                f"{path} is no readable checkpoint: it holds no plain tensors", "give a file that torch.save wrote"
            ) from error
        if not trust:
            raise InputError(
                f"{path} is no readable checkpoint of plain tensors: to read it is to run {_few(needed)}",
                "give a state_dict saved alone, or --trust-checkpoint with --init if you trust whoever made the file",
            ) from error
        document = _trusted(path)
    except Exception as error:  # whatever a reader of arbitrary bytes may raise
        raise InputError(
            f"{path} is no readable checkpoint: {one_line(error)}", "it may be damaged or cut off"
        ) from error
    if isinstance(document, nn.Module):
        document = document.state_dict()
    if not isinstance(document, dict):
        raise InputError(f"{path} holds {type(document).__name__}, allowed is a dict", "give another checkpoint")
    return cast("dict[str, Any]", document)


def _unpickled(path: Path, *, plain: bool) -> Any:
    with warnings.catch_warnings(action="ignore"):
        return torch.load(path, map_location="cpu", weights_only=plain)


def _trusted(path: Path) -> Any:
    try:
        return _unpickled(path, plain=False)
    except Exception as error:  # the file's own code may raise anything
        raise InputError(
            f"{path} cannot be read: {type(error).__name__}: {one_line(error)}",
            "install what it was made with, or have its state_dict saved alone",
        ) from error


def foreign_names(path: Path) -> list[str]:
    """Return the functions and classes that reading a pickle would call, other than those of plain tensors."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    except Exception:  # not of the zip form: a pickle behind others, or something else
        return sorted(_pickled_names(path.read_bytes()))


def _pickled_names(content: bytes) -> set[str]:
    """Return the globals of pickles that follow one another, up to where they end, without calling any."""
    names: set[str] = set()
    texts: list[str] = []
    stream = io.BytesIO(content)
    try:
        for _ in range(_LEGACY_PICKLES):
            for code, argument, _ in pickletools.genops(stream):
                if code.name == "GLOBAL":
                    names.add(str(argument).replace(" ", "."))
                elif code.name == "STACK_GLOBAL":
                    names.add(".".join(texts[-2:]))
                elif isinstance(argument, str):
                    texts.append(argument)
    except ValueError:  # fewer pickles, then raw numbers
        pass
    return {name for name in names if not name.startswith(("torch.", "collections.OrderedDict"))}


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def located(path: Path) -> Path:
    """Return the checkpoint file that a path stands for: itself, or the ckpt.pt in a run directory."""
    return path / "ckpt.pt" if path.is_dir() else path

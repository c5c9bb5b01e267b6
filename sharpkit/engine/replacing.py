"""What of a folder is a run of ours, and how a new run takes its place. Does not import torch."""

from __future__ import annotations

import json
import re
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from sharpkit.engine import lock
from sharpkit.engine.atomic import write_atomically

STAGE = ".new"
"""The folder in a run directory that a run grows in which is going to take the place of the one that is there."""

_MARK = "replaces.json"
_FORMAT = b"sharpkit.checkpoint"
_HEAD = 1 << 20  # bytes of a checkpoint's names that are searched
_FILES = (
    *("ckpt.pt", "best.pt", "config.toml", "env.json", "metrics.jsonl", "summary.json", "seal.json"),
    "sharpness.json",
)
_NUMBERED = re.compile(r"^epoch-\d+\.pt$")
_RESULT = re.compile(
    r"^(ckpt|best|epoch-\d+)-(hessian|landscape|sharpness|graddiff|gradnorm-qq)[\w-]*\.(json|csv|npz|npy|png|pdf|svg|html)$"
)
"""What the diagnostics write beside a checkpoint, which is of that checkpoint alone."""

_BEFORE_A_CHECKPOINT = ("config.toml", "env.json", "metrics.jsonl")


def is_ours(name: str) -> bool:
    """Return whether a run, or a diagnostic of its checkpoints, writes a file of that name."""
    return name in _FILES or _NUMBERED.match(name) is not None or _RESULT.match(name) is not None


def holds_run(folder: Path) -> bool:
    """Return whether a folder has a seal or a checkpoint of ours."""
    try:
        stored: Any = json.loads((folder / "seal.json").read_text(encoding="utf-8"))
        if isinstance(stored["sha256"], dict):
            return True
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return (folder / "ckpt.pt").is_file() and _of_ours(folder / "ckpt.pt")


def _of_ours(checkpoint: Path) -> bool:
    try:
        with zipfile.ZipFile(checkpoint) as parts:
            (names,) = (name for name in parts.namelist() if name.endswith("/data.pkl"))
            with parts.open(names) as file:
                return _FORMAT in file.read(_HEAD)
    except (OSError, ValueError, zipfile.BadZipFile, RuntimeError, NotImplementedError):
        return False


def is_empty(folder: Path) -> bool:
    """Return whether there is nothing in a folder but what a run leaves that ended before its first checkpoint."""
    names = [path.name for path in folder.iterdir() if not lock.passing(path.name)]
    started = "env.json" in names and set(names) <= {*_BEFORE_A_CHECKPOINT, STAGE}
    return not names or started or names == [STAGE]


def clear(folder: Path) -> None:
    """Remove the files of a run of ours, and nothing else."""
    for path in folder.iterdir():
        if is_ours(path.name) and (path.is_file() or path.is_symlink()):
            path.unlink()
    discard(folder)


def discard(folder: Path) -> None:
    """Remove what a run left that was going to take the place of the one in a folder."""
    stage = folder / STAGE
    if not stage.is_dir() or stage.is_symlink():
        return
    for path in stage.iterdir():
        if is_ours(path.name) or lock.passing(path.name):
            path.unlink()
    with suppress(OSError):  # something else is in it
        stage.rmdir()


def replace(folder: Path) -> None:
    """Have the run in the stage take the place of the one in a folder.

    A list of its files is written first, so that `settle` ends what is broken off on the way.
    """
    stage = folder / STAGE
    names = sorted(path.name for path in stage.iterdir() if is_ours(path.name))
    write_atomically(stage / _MARK, lambda file: file.write(json.dumps(names).encode()))
    settle(folder)


def settle(folder: Path) -> None:
    """End a replacement that was broken off; without one, do nothing."""
    stage = folder / STAGE
    try:
        names = [str(name) for name in json.loads((stage / _MARK).read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return
    (folder / "seal.json").unlink(missing_ok=True)
    for name in names:
        if is_ours(name) and (stage / name).is_file():
            (stage / name).replace(folder / name)
    for path in folder.iterdir():
        if is_ours(path.name) and path.name not in names and path.is_file():
            path.unlink()
    (stage / _MARK).unlink()
    discard(folder)

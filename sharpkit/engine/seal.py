"""The seal of a finished run: digests of its files, which tell a run that was changed or torn."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from sharpkit.engine.rundir import RunDir, write_text
from sharpkit.errors import InputError

_NAME = "seal.json"


def seal(run: RunDir) -> None:
    """Write the digests of a finished run's files."""
    _write(run.path, {path.name: _digest(path) for path in (run.config, run.metrics, run.summary, run.checkpoint)})


def seal_also(folder: Path, name: str) -> None:
    """Add a file to the seal of a finished run."""
    _write(folder, {**_digests(folder), name: _digest(folder / name)})


def unseal(run: RunDir) -> None:
    """Remove the seal of a run that goes on."""
    (run.path / _NAME).unlink(missing_ok=True)


def sealed(folder: Path) -> bool:
    """Return whether a folder holds a run that was finished, intact or not."""
    return (folder / _NAME).is_file()


def holds(folder: Path, name: str) -> bool:
    """Return whether a file is under the seal of a run."""
    return sealed(folder) and name in _digests(folder)


def fault(folder: Path, *, checkpoint: bool = True) -> str | None:
    """Return why a run's files cannot be trusted, None if they can.

    Args:
        folder: The run directory.
        checkpoint: Whether the checkpoint counts; it may be large, and a table needs only the numbers.
    """
    if not sealed(folder):
        return "is not finished"
    try:
        for name, digest in _digests(folder).items():
            path = folder / name
            if not checkpoint and path.suffix == ".pt":
                continue
            if not path.is_file():
                return f"has no {name}"
            if _digest(path) != digest:
                return f"has another {name} than it ended with"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"has a seal that cannot be read: {type(error).__name__}"
    return None


def summary_of(folder: Path) -> dict[str, Any]:
    """Return the summary of a run whose seal is intact.

    Raises:
        InputError: If it cannot be read.
    """
    path = RunDir(folder).summary
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {type(error).__name__}", "run it again") from error


def _digests(folder: Path) -> dict[str, str]:
    content: Any = json.loads((folder / _NAME).read_text(encoding="utf-8"))
    return dict(content["sha256"])


def _write(folder: Path, digests: dict[str, str]) -> None:
    write_text(folder / _NAME, json.dumps({"sha256": digests}, indent=2) + "\n")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

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
    """Write the digests of a finished run's files; of the checkpoint, which may be large, the size."""
    files = {path.name: _digest(path) for path in (run.config, run.metrics, run.summary)}
    content = {"sha256": files, "bytes": {run.checkpoint.name: run.checkpoint.stat().st_size}}
    write_text(run.path / _NAME, json.dumps(content, indent=2) + "\n")


def unseal(run: RunDir) -> None:
    """Remove the seal of a run that goes on."""
    (run.path / _NAME).unlink(missing_ok=True)


def sealed(folder: Path) -> bool:
    """Return whether a folder holds a run that was finished, intact or not."""
    return (folder / _NAME).is_file()


def fault(folder: Path) -> str | None:
    """Return why a run's files cannot be trusted, None if they can."""
    if not sealed(folder):
        return "is not finished"
    try:
        content: Any = json.loads((folder / _NAME).read_text(encoding="utf-8"))
        for name, digest in content["sha256"].items():
            path = folder / name
            if not path.is_file():
                return f"has no {name}"
            if _digest(path) != digest:
                return f"has another {name} than it ended with"
        for name, size in content["bytes"].items():
            if not (folder / name).is_file() or (folder / name).stat().st_size != size:
                return f"has another {name} than it ended with"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"has a seal that cannot be read: {type(error).__name__}"
    return None


def summary_of(folder: Path) -> dict[str, Any]:
    """Return the summary of a finished run.

    Raises:
        InputError: If it is not finished, or was changed.
    """
    if (reason := fault(folder)) is not None:
        raise InputError(f"{folder} {reason}", "run it again")
    return json.loads(RunDir(folder).summary.read_text(encoding="utf-8"))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

"""User-supplied code that a checkpoint names: what of it may run. Does not import torch.

A checkpoint is a file that may come from anybody, and names its model, data and base optimizer. A name such as
`theirs/net.py:net` would be imported and called. So the name alone is no permission: the user gives it by naming the
code in this call, by `--trust-code`, or by having trained with exactly this file and function before, which is recorded
in the user's state directory. Nothing beside the checkpoint is asked, since a downloaded folder would vouch for itself.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from sharpkit.engine.atomic import write_atomically
from sharpkit.engine.config import TrainConfig
from sharpkit.errors import InputError, SharpkitError, UsageError, one_line

VARIABLE = "SHARPKIT_STATE_DIR"

OPTIONS = ("data", "model", "base")
"""Options that may name user-supplied code."""


@dataclass(frozen=True)
class Code:
    """A file of Python code, and the name in it that is called.

    Args:
        path: The absolute path, without symbolic links.
        digest: The SHA-256 of its content.
        member: The function or class.
    """

    path: Path
    digest: str
    member: str


@dataclass(frozen=True)
class _Source:
    """The checkpoint that names are read from."""

    checkpoint: Path
    requested: frozenset[str]
    trusted: bool


_source: ContextVar[_Source | None] = ContextVar("source", default=None)
_ledger: ContextVar[list[Code] | None] = ContextVar("ledger", default=None)


def names_of(config: TrainConfig) -> list[str]:
    """Return the names in a configuration that may be those of user-supplied code."""
    return [getattr(config, name) for name in OPTIONS]


def code_of(path: Path, content: bytes, member: str) -> Code:
    """Return the record of a file with this content."""
    return Code(path.resolve(), hashlib.sha256(content).hexdigest(), member)


@contextmanager
def named_by(checkpoint: Path, requested: Collection[str | None], *, trust: bool) -> Generator[None]:
    """Restrict the code that runs to what the user permits, while a configuration of a checkpoint is built.

    Args:
        checkpoint: Where the names come from.
        requested: The names that the user gave in this call, as they were written.
        trust: Whether all code that the checkpoint names may run.
    """
    names = frozenset(name for name in requested if name is not None)
    token = _source.set(_Source(checkpoint, names, trust))
    try:
        yield
    finally:
        _source.reset(token)


@contextmanager
def collected() -> Generator[list[Code]]:
    """Yield a list that receives the user's own code as it is about to run; code of a checkpoint is not added."""
    codes: list[Code] = []
    token = _ledger.set(codes)
    try:
        yield codes
    finally:
        _ledger.reset(token)


def is_requested(reference: str) -> bool:
    """Return whether the user named the code, or trusts all that the checkpoint names."""
    source = _source.get()
    return source is None or source.trusted or reference in source.requested


def admit(codes: Sequence[Code], reference: str, option: str) -> None:
    """Return if code may run.

    Args:
        codes: The files that would run; none where they cannot be found.
        reference: `file.py:function` or `module:Class`.
        option: The option that names it, such as `--model`.

    Raises:
        InputError: If a checkpoint names the code, and the user has not permitted it.
    """
    source = _source.get()
    if source is None or reference in source.requested:
        if (ledger := _ledger.get()) is not None:
            ledger.extend(code for code in codes if code not in ledger)
        return
    if source.trusted or (codes and all(_is_recorded(code) for code in codes)):
        return
    changed = [code.path for code in codes if _was_recorded(code)]
    unknown = [code.path for code in codes if not _is_recorded(code)]
    member = reference.rpartition(":")[2]
    reason = "which has changed since you trained with it" if changed else "with which you have not trained here"
    code = f"{member} of {(changed or unknown)[0]}" if unknown else f"code of {reference}"
    raise InputError(
        f"{source.checkpoint} names {option} {reference}, which would run {code}, {reason}",
        f"give {option} {reference} if you trust that code, or --trust-code for all that the checkpoint names",
    )


def record(codes: Sequence[Code]) -> str | None:
    """Record code that the user trains with; return why that was not possible, None if it was.

    Every file and function has a record of its own, named after its content, so processes that write at once do not
    overwrite each other.
    """
    if not codes:
        return None
    folder = state_folder()
    if folder is None:
        return "there is no home directory"
    for code in codes:
        place = _place(folder, code)
        if place.is_file():
            continue
        try:
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(place, lambda file, code=code: file.write(f"{code.path}:{code.member}\n".encode()))
        except (OSError, SharpkitError) as error:
            if not place.is_file():  # another process may have written the same
                return one_line(error.message if isinstance(error, SharpkitError) else error)
    return None


def state_folder() -> Path | None:
    """Return the user's state directory; None where the user has no home directory.

    Raises:
        UsageError: If SHARPKIT_STATE_DIR is a relative path, which a downloaded folder could provide.
    """
    if given := os.environ.get(VARIABLE):
        folder = Path(given).expanduser()
        if not folder.is_absolute():
            raise UsageError(f"{VARIABLE} is {given}, allowed is an absolute path", f"correct or unset {VARIABLE}")
        return folder
    base = Path(os.environ.get("XDG_STATE_HOME", ""))
    if base.is_absolute():  # a relative one is to be ignored, as the specification of these directories says
        return base / "sharpkit"
    try:
        return Path.home() / ".local" / "state" / "sharpkit"
    except RuntimeError:
        return None


def _place(folder: Path, code: Code) -> Path:
    name = hashlib.sha256(f"{code.path}:{code.member}".encode(errors="surrogateescape")).hexdigest()
    return folder / "trusted-code" / name / code.digest


def _is_recorded(code: Code) -> bool:
    folder = state_folder()
    return folder is not None and _exists(_place(folder, code))


def _was_recorded(code: Code) -> bool:
    """Return whether the user trained with another content of the file."""
    folder = state_folder()
    return folder is not None and not _is_recorded(code) and _exists(_place(folder, code).parent)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a state directory that cannot be read
        return False

"""The run directory: config.toml, env.json, metrics.jsonl, ckpt.pt, summary.json. Does not import torch."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import tomli_w

from sharpkit.engine import lock, replacing
from sharpkit.engine.atomic import write_atomically
from sharpkit.engine.config import MAY_DIFFER, TrainConfig, from_mapping, to_mapping
from sharpkit.engine.documents import finite
from sharpkit.errors import InputError, SharpkitError, UsageError, one_line

DIVERGED = "diverged"
"""The kind of the line that says why a run ended without a result."""


class RunDir:
    """The files of one run.

    Args:
        path: The directory.
        writes: Whether this process writes to it; one of several does.
        goal: The directory whose run this one takes the place of; None where there is no such.
    """

    def __init__(self, path: Path, *, writes: bool = True, goal: Path | None = None) -> None:
        self.writes = writes
        self.goal = goal
        self._go_to(path)

    def _go_to(self, path: Path) -> None:
        self.path = path
        self.checkpoint = path / "ckpt.pt"
        self.metrics = path / "metrics.jsonl"
        self.config = path / "config.toml"
        self.summary = path / "summary.json"

    def create(self, config: TrainConfig, environment: Mapping[str, Any], preset: str | None = None) -> None:
        """Write what the run was asked for, the preset as a comment, and where it runs."""
        if not self.writes:
            return
        head = f"# preset {preset}\n" if preset else ""
        write_text(self.config, head + tomli_w.dumps(to_mapping(config)))
        write_text(self.path / "env.json", json.dumps(environment, indent=2) + "\n")

    def moved(self) -> None:
        """Go on in `goal`, whose run this one has replaced."""
        if self.goal is not None:
            self._go_to(self.goal)
            self.goal = None

    def append(self, records: list[dict[str, Any]]) -> None:
        """Add lines to metrics.jsonl; numbers that are not finite become null."""
        if not self.writes:
            return
        lines = "".join(json.dumps(finite(record)) + "\n" for record in records)
        try:
            with self.metrics.open("a", encoding="utf-8") as file:
                file.write(lines)
        except OSError as error:
            raise InputError(
                f"cannot write {self.metrics}: {error.strerror}", "the last good ckpt.pt is kept; free space there"
            ) from error

    def records(self) -> list[dict[str, Any]]:
        """Return the lines of metrics.jsonl that are whole.

        Raises:
            InputError: If there is no such file.
        """
        try:
            text = self.metrics.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read {self.metrics}: {one_line(error)}", "give a run directory") from error
        found: list[dict[str, Any]] = []
        for line in text.splitlines():
            try:
                record: Any = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(record, dict):
                found.append(cast("dict[str, Any]", record))
        return found

    def diverged(self) -> bool:
        """Return whether the run ended because its numbers were no longer finite."""
        try:
            return any(record.get("kind") == DIVERGED for record in self.records())
        except InputError:
            return False

    def changed(self, config: TrainConfig, written: tuple[int, ...]) -> Path | None:
        """Return a file of the run that is not as its process left it, None if all are.

        Args:
            config: Of the run.
            written: The `version` of its last checkpoint.
        """
        if version(self.checkpoint) != written:
            return self.checkpoint
        try:
            stored = TrainConfig(**from_mapping(read_config(self.config), str(self.config)))
        except SharpkitError:
            return self.config
        here = {name: getattr(config, name) for name in MAY_DIFFER}
        return None if replace(stored, **here) == config else self.config

    def has(self, kind: str, step: int) -> bool:
        """Return whether there is a line of a kind of a step."""
        if not self.metrics.is_file():
            return False
        return any((record.get("kind"), record.get("step")) == (kind, step) for record in self.records())

    def cut_metrics(self, step: int) -> None:
        """Drop the lines of steps after `step`, and a torn last line, so that a resumed run does not repeat any."""
        if not self.writes or not self.metrics.is_file():
            return
        kept: list[str] = []
        for line in self.metrics.read_text(encoding="utf-8").splitlines(keepends=True):
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                break
            if line.endswith("\n") and record.get("step", 0) <= step and record.get("kind") != DIVERGED:
                kept.append(line)
        write_text(self.metrics, "".join(kept))


def planned(root: Path, name: str, out: Path | None, overwrite: bool) -> Path:
    """Return the directory that a new run would get, without touching anything.

    Raises:
        UsageError: If `out` already holds a run that may not be overwritten, or something else.
        InputError: If `out` cannot be a directory.
    """
    if out is None:
        if overwrite:
            raise UsageError("--overwrite is given without --out", "name the run directory with --out")
        number = 1
        while (path := root / (name if number == 1 else f"{name}-{number}")).exists():
            number += 1
        return path
    try:
        if out.is_file():
            raise UsageError(f"--out {out} is a file, allowed is a directory", "give another --out")
        if out.is_dir() and not replacing.is_empty(out):
            if not replacing.holds_run(out):
                raise UsageError(f"{out} is not empty and holds no run", "give another --out")
            if not overwrite:
                raise UsageError(f"{out} is not empty", "use --overwrite, or --resume to go on with it")
    except OSError as error:
        raise InputError(f"cannot use the run directory {out}: {error.strerror}", "give another --out") from error
    return out


@contextmanager
def new(root: Path, name: str, out: Path | None, overwrite: bool) -> Generator[tuple[Path, Path | None]]:
    """Keep the directory of a new run for this process: `out`, or root/name with the first free number.

    Yields:
        Where to write, and the directory of an earlier run that the new one takes the place of once it is there.

    Raises:
        UsageError: If `out` already holds a run that may not be overwritten, or something else.
        InputError: If the directory cannot be made, or another process works in it.
    """
    path = planned(root, name, out, overwrite)
    while out is None:
        try:
            _make(path, exist_ok=False)
            break
        except FileExistsError:  # another run that starts at this moment has taken it
            path = planned(root, name, None, overwrite)
    with lock.claimed(path):
        replacing.settle(path)
        planned(root, name, path, overwrite)  # what another process did until it was ours
        if replacing.holds_run(path):
            replacing.discard(path)
            stage = path / replacing.STAGE
            _make(stage, exist_ok=True)
            yield stage, path
        else:
            replacing.clear(path)
            yield path, None


def _make(path: Path, *, exist_ok: bool) -> None:
    try:
        path.mkdir(parents=True, exist_ok=exist_ok)
    except OSError as error:
        if isinstance(error, FileExistsError) and not exist_ok:
            raise
        raise InputError(f"cannot make the run directory {path}: {error.strerror}", "give another --out") from error


def run_name(data: str, model: str, opt: str, seed: int) -> str:
    """Return <data>-<model>-<opt>-s<seed> with only characters that are safe in a path."""
    return re.sub(r"[^A-Za-z0-9.=,+_-]+", "_", f"{data}-{model}-{opt}-s{seed}")


def read_config(path: Path) -> dict[str, Any]:
    """Return the options of a TOML or JSON file.

    Raises:
        InputError: If it is missing or not valid.
    """
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the configuration {path}: {error}", "give a TOML or JSON file") from error
    try:
        parsed: Any = json.loads(text) if text.lstrip().startswith("{") else tomllib.loads(text)
    except (json.JSONDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{path} is neither TOML nor JSON: {one_line(error)}", "correct it") from error
    return cast("dict[str, Any]", parsed)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    write_atomically(path, lambda file: file.write(text.encode()))


def version(path: Path) -> tuple[int, ...]:
    """Return what another file of the same name would not have, nothing where there is none."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns

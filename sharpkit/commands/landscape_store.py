"""Surfaces on disk: the points evaluated so far and what they belong to, so that a run that was stopped goes on."""

from __future__ import annotations

import hashlib
import json
import os
import time
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sharpkit.core.task import Batch, tensors
from sharpkit.diagnostics.surfaces.cells import Cells
from sharpkit.diagnostics.surfaces.plane import Plane
from sharpkit.engine import checkpoint
from sharpkit.engine.atomic import write_atomically
from sharpkit.engine.ranks import current
from sharpkit.errors import InputError, one_line

FORMAT = "sharpkit.landscape/1"
_EVERY = 10.0
"""Seconds between two writes."""

Print = dict[str, str]
"""What a surface belongs to, by name."""


def fingerprint(
    model: nn.Module, batches: Sequence[Batch], plane: Plane, *, bn_mode: str, amp: str, loss: str
) -> Print:
    """Return what decides the values of a surface, each as a short text that differs where it does."""
    return {
        "weights": _digest([*model.parameters(), *model.buffers()]),
        "samples": _digest(t for batch in batches for tree in (batch.inputs, batch.targets) for t in tensors(tree)),
        "directions": _of_plane(plane),
        "batch norm": bn_mode,
        "precision": amp,
        "loss": loss,
    }


def _of_plane(plane: Plane) -> str:
    if plane.kind != "hessian":
        return _digest([*(t for axis in plane.axes for t in axis), *(t for b in plane.buffers for t in b.values())])
    # Lanczos ends on slightly other vectors with another number of threads.
    values = ",".join(f"{value:.2e}" for value in plane.values)
    return f"hessian {plane.norm} {plane.ignore} {plane.orthogonal} {values}"


def _digest(values: Iterable[Tensor]) -> str:
    found = hashlib.sha256()
    for tensor in values:
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        found.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(flat.view(torch.uint8).numpy().data)
    return found.hexdigest()[:24]


class Store:
    """The .npz file of the surfaces of one call; of several processes the first one writes it.

    Args:
        path: Where it is.
        names: The checkpoints of the call.
        overwrite: Whether what is there is left out of account, and replaced.

    Raises:
        InputError: If there is a file of another kind, or of other checkpoints.
    """

    def __init__(self, path: Path, names: Sequence[str], *, overwrite: bool) -> None:
        self.path = path
        self._single = len(names) == 1
        self._prints: dict[str, Print] = {}
        self._cells: dict[str, Cells] = {}
        self._results: dict[str, dict[str, Any]] = {}
        self._found: dict[str, tuple[Print, Cells]] = {}
        self._written = time.monotonic()
        if path.exists() and not overwrite:
            self._found = _read(path)
            others = [key for key in self._found if key not in {self._key(name) for name in names}]
            if others:
                raise InputError(f"{path} holds the surfaces of {', '.join(others)}", _REMEDY)

    def cells(self, name: str, print_: Print) -> Cells:
        """Return the points of a checkpoint that are known, to be added to.

        Raises:
            InputError: If the file holds another surface of it.
        """
        key = self._key(name)
        known, cells = self._found.get(key, (print_, Cells()))
        differs = [part for part in print_ if known.get(part) != print_[part]]
        if differs:
            raise InputError(f"{self.path} holds a surface of other {' and '.join(differs)}", _REMEDY)
        self._prints[key], self._cells[key] = print_, cells
        return cells

    def done(self, name: str, arrays: Mapping[str, Any]) -> None:
        """Keep the grid of a checkpoint beside its points."""
        self._results[self._key(name)] = dict(arrays)

    def tick(self) -> None:
        """Write if the last time is some seconds ago."""
        if time.monotonic() - self._written > _EVERY:
            self.write()

    def write(self) -> Path:
        """Write everything that is known, whole or not at all; what other surfaces were there is kept."""
        if current().rank:
            return self.path
        arrays: dict[str, Any] = {"format": FORMAT}
        prints = {**{key: print_ for key, (print_, _) in self._found.items()}, **self._prints}
        keys = list(prints)
        arrays["ckpt"] = np.array(keys)
        for i, key in enumerate(keys):
            head = "" if len(keys) == 1 else f"{i}/"
            cells = self._cells[key] if key in self._cells else self._found[key][1]
            points, values = cells.arrays()
            arrays |= {f"{head}points": points, f"{head}values": values}
            arrays[f"{head}fingerprint"] = json.dumps(prints[key])
            arrays |= {head + name: value for name, value in self._results.get(key, {}).items()}
        write_atomically(self.path, lambda file: np.savez(file, **arrays))
        self._written = time.monotonic()
        return self.path

    def _key(self, name: str) -> str:
        """Return how a checkpoint is called in the file: of a single one, wherever it is, by its own name."""
        path = checkpoint.located(Path(name))
        return path.name if self._single else os.path.normpath(path)


_REMEDY = "give --overwrite, or another --out"


def _read(path: Path) -> dict[str, tuple[Print, Cells]]:
    try:
        with np.load(path) as held:
            if str(held["format"]) != FORMAT:
                raise KeyError("format")
            keys = [str(key) for key in held["ckpt"]]
            heads = [""] if len(keys) == 1 else [f"{i}/" for i in range(len(keys))]
            return {
                key: (
                    json.loads(str(held[f"{head}fingerprint"])),
                    Cells(held[f"{head}points"], held[f"{head}values"]),
                )
                for key, head in zip(keys, heads, strict=True)
            }
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is no file of sharpkit landscape: {one_line(error)}", _REMEDY) from error

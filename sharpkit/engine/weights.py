"""Weights of checkpoints, this tool's and others': which tensors a file holds, and how they get into a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from sharpkit.engine import checkpoint, matching
from sharpkit.engine.matching import uncompiled, without_wrapper
from sharpkit.errors import InputError, one_line
from sharpkit.libraries import imported

Note = Callable[[str], object]
"""Is told what a person would like to know."""

WRAPPERS = (
    "model_state_dict",
    "state_dict",
    "model",
    "net",
    "ema_state_dict",
    "state_dict_ema",
    "model_ema",
    "ema",
)
"""Keys that a training script puts a state_dict under; of several in one file the first holds: what was trained comes
before its moving average."""

_DEPTH = 2
_SHOWN = 10


def _ignore(text: str) -> None:
    """Tell nobody."""


def read_weights(path: Path, *, trust: bool = False, note: Note = _ignore) -> dict[str, Tensor]:
    """Return the weights that a file holds, by the names of a model that is neither compiled nor wrapped.

    Args:
        path: A checkpoint of this tool, its run directory, a `.safetensors` file, or what torch.save wrote of a
            state_dict, alone or under one of `WRAPPERS`, at most twice nested.
        trust: Whether code that the file needs may run.
        note: Is told what was left out of several state_dicts.

    Raises:
        InputError: If it cannot be read, or holds no weights.
    """
    file = checkpoint.located(path)
    if file.suffix == ".safetensors":
        return without_wrapper(_from_safetensors(file))
    document = checkpoint.read(file, trust=trust)
    if document.get("format") == checkpoint.FORMAT:
        return {uncompiled(name): value for name, value in _tensors(document.get("model"), file).items()}
    return without_wrapper(_tensors(_unwrapped(document, file, note), file))


def load_weights(
    model: nn.Module, path: Path, *, partial: bool = False, trust: bool = False, note: Note = _ignore
) -> None:
    """Load the weights of a checkpoint, all of them or none, unless `partial`.

    Args:
        model: What the weights go into.
        path: As for `read_weights`.
        partial: Whether what does not fit is left out.
        trust: Whether code that the file needs may run.
        note: Is told what was left out.

    Raises:
        InputError: If names or shapes differ, or a number is not finite; the model is unchanged then.
    """
    stored = read_weights(path, trust=trust, note=note)
    if not _finite(stored.values()):
        raise InputError(f"{path} holds weights that are not finite", "give a checkpoint from before it diverged")
    load_state(model, stored, str(path), partial=partial, note=note)


def load_state(
    model: nn.Module, stored: Mapping[str, Any], where: str, *, partial: bool = False, note: Note = _ignore
) -> None:
    """Load a state_dict that torch's strict loading takes once wrappers and a prefix of all names are taken off.

    Names of tied weights that are stored once, and counters of batch norm that older versions of torch did not have,
    are filled in.

    Args:
        model: What the weights go into.
        stored: Tensors by name.
        where: What to call their file in messages.
        partial: Whether what does not fit is left out.
        note: Is told what was taken off, filled in and left out.

    Raises:
        InputError: If names or shapes differ, or with `partial` nothing fits; the model is unchanged then.
    """
    found = matching.chosen(model, stored, where, partial=partial)
    model.load_state_dict(found.fitting, strict=False)
    for sentence in found.told:
        note(f"{where}: {sentence}")
    if not found.exact:
        besides = f"{len(found.left)} without the prefix: {', '.join(found.left[:_SHOWN])}" if found.left else ""
        left = "; ".join(part for part in (found.differences.told(), besides) if part)
        count = len(model.state_dict())
        note(f"{where}: loaded {len(found.fitting)} of {count} tensors, left out what does not fit: {left}")


def state_of(model: nn.Module) -> dict[str, Any]:
    """Return a model's state_dict with the names that it has uncompiled."""
    return {uncompiled(name): value for name, value in model.state_dict().items()}


def all_finite(model: nn.Module) -> bool:
    """Return whether every number in a model's parameters and buffers is finite."""
    return _finite(model.state_dict().values())


def _finite(values: Iterable[Any]) -> bool:
    numbers = [v for v in values if isinstance(v, Tensor) and (v.is_floating_point() or v.is_complex())]
    held = [torch.isfinite(v).all() for v in numbers]
    return not held or bool(torch.stack(held).all())


def _from_safetensors(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise InputError(f"the checkpoint {file} does not exist", "give a checkpoint file or a run directory")
    library = imported("safetensors.torch", str(file))
    try:
        return library.load_file(file)
    except Exception as error:  # the library's own error, or the system's
        raise InputError(
            f"{file} is no readable checkpoint: {one_line(error)}", "it may be damaged or cut off"
        ) from error


def _unwrapped(document: Mapping[str, Any], file: Path, note: Note) -> Mapping[str, Any]:
    """Return the state_dict in a document."""
    for _ in range(_DEPTH):
        held = [key for key in WRAPPERS if isinstance(document.get(key), Mapping | nn.Module)]
        if not held:
            break
        if len(held) > 1:
            note(f"{file}: took {held[0]}, left {', '.join(held[1:])}")
        inner: Any = document[held[0]]
        document = inner.state_dict() if isinstance(inner, nn.Module) else inner
    return document


def _tensors(held: Any, file: Path) -> dict[str, Tensor]:
    """Return what is a tensor or a module's extra state; scripts put numbers and texts beside them."""
    entries = cast("Mapping[Any, Any]", held if isinstance(held, Mapping) else {})
    tensors = {
        str(name): value for name, value in entries.items()
        if isinstance(value, Tensor) or str(name).endswith("_extra_state")
    }  # fmt: skip
    if not tensors:
        keys = ", ".join(str(key) for key in list(entries)[:_SHOWN]) or "nothing"
        raise InputError(
            f"{file} holds no weights by name, its keys are {keys}",
            f"give a state_dict, alone or under one of {', '.join(WRAPPERS)}",
        )
    return tensors

"""Weights of checkpoints, this tool's and others': which tensors a file holds, and how they get into a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from sharpkit.engine import checkpoint
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
_COMPILED, _PARALLEL = "_orig_mod", "module."


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
        return _without_wrapper(_from_safetensors(file))
    document = checkpoint.read(file, trust=trust)
    if document.get("format") == checkpoint.FORMAT:
        return {uncompiled(name): value for name, value in _tensors(document.get("model"), file).items()}
    return _without_wrapper(_tensors(_unwrapped(document, file, note), file))


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
    """Load a state_dict whose names and shapes are the model's own, up to the prefixes of wrappers.

    Args:
        model: What the weights go into.
        stored: Tensors by name.
        where: What to call their file in messages.
        partial: Whether what does not fit is left out.
        note: Is told what was left out.

    Raises:
        InputError: If names or shapes differ, or with `partial` nothing fits; the model is unchanged then.
    """
    own = model.state_dict()
    names = dict(zip(_without_wrapper(own), own, strict=True))
    given = {names.get(name, name): value for name, value in _without_wrapper(dict(stored)).items()}
    differs = _Differences.between(own, given)
    fitting = {name: given[name] for name in own if name in given and name not in differs.reshaped}
    if differs and not (partial and fitting):
        fits = "" if partial or not fitting else f", or --partial for the {len(fitting)} of {len(own)} that fit"
        raise InputError(
            f"{where} is a checkpoint of another model: {differs.told()}", f"give the --model it was made with{fits}"
        )
    model.load_state_dict(fitting, strict=False)
    if differs:
        note(f"{where}: loaded {len(fitting)} of {len(own)} tensors, left out what does not fit: {differs.told()}")


def state_of(model: nn.Module) -> dict[str, Any]:
    """Return a model's state_dict with the names that it has uncompiled."""
    return {uncompiled(name): value for name, value in model.state_dict().items()}


def uncompiled(name: str) -> str:
    """Return a name without what torch.compile puts in front of a module, wherever that is in the model."""
    return ".".join(part for part in name.split(".") if part != _COMPILED)


def all_finite(model: nn.Module) -> bool:
    """Return whether every number in a model's parameters and buffers is finite."""
    return _finite(value for value in model.state_dict().values() if isinstance(value, Tensor))


def _finite(values: Any) -> bool:
    held = [torch.isfinite(v).all() for v in values if v.is_floating_point() or v.is_complex()]
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
    """Return what is a tensor; scripts put numbers and texts beside them."""
    entries = cast("Mapping[Any, Any]", held if isinstance(held, Mapping) else {})
    tensors = {str(name): value for name, value in entries.items() if isinstance(value, Tensor)}
    if not tensors:
        keys = ", ".join(str(key) for key in list(entries)[:_SHOWN]) or "nothing"
        raise InputError(
            f"{file} holds no weights by name, its keys are {keys}",
            f"give a state_dict, alone or under one of {', '.join(WRAPPERS)}",
        )
    return tensors


def _without_wrapper(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state_dict by the names that its model has without torch.compile and data-parallel wrappers."""
    clean = {uncompiled(name): value for name, value in state.items()}
    averaged = "n_averaged"  # which torch.optim.swa_utils.AveragedModel counts beside its module
    wrapped = [name for name in clean if name != averaged]
    if wrapped and all(name.startswith(_PARALLEL) for name in wrapped):
        return _without_wrapper({name.removeprefix(_PARALLEL): clean[name] for name in wrapped})
    return clean


@dataclass(frozen=True)
class _Differences:
    """In what a state_dict is not the model's: descriptions by name."""

    missing: dict[str, str]
    unexpected: dict[str, str]
    reshaped: dict[str, str]

    @staticmethod
    def between(own: Mapping[str, Any], given: Mapping[str, Any]) -> _Differences:
        """Compare names and shapes; a module's own extra state, which is no tensor, need not be given."""
        here, there = ({name: getattr(v, "shape", None) for name, v in state.items()} for state in (own, given))
        return _Differences(
            {name: _shape(shape) for name, shape in here.items() if name not in given and shape is not None},
            {name: _shape(shape) for name, shape in there.items() if name not in own},
            {
                name: f"{_shape(there[name])}, here {_shape(shape)}"
                for name, shape in here.items()
                if name in given and there[name] != shape
            },
        )

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.reshaped)

    def told(self) -> str:
        """Return the numbers of each kind and the first ten names in all, with shapes."""
        kinds = {"missing": self.missing, "unexpected": self.unexpected, "of another shape": self.reshaped}
        room = dict.fromkeys(kinds, 0)
        for _ in range(_SHOWN):
            left = [kind for kind, names in kinds.items() if room[kind] < len(names)]
            if left:
                room[min(left, key=lambda kind: room[kind])] += 1
        parts = [
            f"{len(names)} {kind}: " + ", ".join(f"{name} ({names[name]})" for name in list(names)[: room[kind]])
            + (", ..." if room[kind] < len(names) else "")
            for kind, names in kinds.items()
            if names
        ]  # fmt: skip
        return "; ".join(parts)


def _shape(shape: Any) -> str:
    return "no tensor" if shape is None else "x".join(str(n) for n in shape) or "scalar"

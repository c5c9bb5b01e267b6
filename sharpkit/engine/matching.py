"""Whose names a state_dict has: wrappers and prefixes taken off, what torch's strict loading needs filled in."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sharpkit.errors import InputError

_SHOWN = 10
_COMPILED, _PARALLEL, _EXTRA, _COUNTER = "_orig_mod", "module.", "_extra_state", "num_batches_tracked"
_AVERAGED = "n_averaged"  # which torch.optim.swa_utils.AveragedModel counts beside its module


def uncompiled(name: str) -> str:
    """Return a name without what torch.compile puts in front of a module, wherever that is in the model."""
    return ".".join(part for part in name.split(".") if part != _COMPILED)


def without_wrapper(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state_dict by the names that its model has without torch.compile and data-parallel wrappers."""
    clean = {uncompiled(name): value for name, value in state.items()}
    wrapped = [name for name in clean if name != _AVERAGED]
    if wrapped and all(name.startswith(_PARALLEL) for name in wrapped):
        return without_wrapper({name.removeprefix(_PARALLEL): clean[name] for name in wrapped})
    return clean


@dataclass(frozen=True)
class Match:
    """A way to read the names of a state_dict.

    Args:
        state: Values by the model's own names, with what could be filled in.
        prefix: What was taken off in front of every name.
        left: The names that do not have the prefix, which are left out.
        differences: In what `state` is not the model's.
        notes: What was filled in.
    """

    state: dict[str, Any]
    prefix: str
    left: list[str]
    differences: Differences
    notes: list[str] = field(default_factory=list[str])

    @property
    def exact(self) -> bool:
        """Whether torch's strict loading takes all of the state_dict."""
        return not self.left and not self.differences

    @property
    def fitting(self) -> dict[str, Any]:
        """What the model has a place of the same shape for."""
        wrong = self.differences.unexpected.keys() | self.differences.reshaped.keys()
        return {name: value for name, value in self.state.items() if name not in wrong}

    @property
    def told(self) -> list[str]:
        """What was done to the names and values, for a person."""
        which = "every name that has it" if self.left else "every name"
        taken_off = [f"took the prefix {self.prefix!r} off {which}"] if self.prefix else []
        return [*taken_off, *self.notes]


def matches(model: nn.Module, stored: Mapping[str, Any]) -> Iterator[Match]:
    """Yield the ways to read a state_dict, as it is first, then without each prefix that some of its names have.

    Those without a prefix that all names share leave nothing out.

    Args:
        model: Whose names are looked for.
        stored: Values by name.
    """
    own = model.state_dict()
    clean_own = dict(zip(without_wrapper(own), own, strict=True))
    aliases = list(_aliases(model))
    given = without_wrapper(stored)
    for prefix in ("", *_prefixes(given)):
        part = {name.removeprefix(prefix): value for name, value in given.items() if name.startswith(prefix)}
        left = [name for name in given if not name.startswith(prefix)]
        state = {clean_own.get(name, name): value for name, value in part.items()}
        notes = [*_fill_aliases(state, aliases), *_fill_counters(state, own), *_types(state, own)]
        differences = Differences.between(own, state)
        if (
            differences and not left and _strictly_taken(model, state)
        ):  # the model's own hooks rename what older versions saved
            differences = Differences({}, {}, {})
        yield Match(state, prefix, left, differences, notes)


def chosen(model: nn.Module, stored: Mapping[str, Any], where: str, *, partial: bool = False) -> Match:
    """Return the way to read a state_dict that fits.

    Args:
        model: What the weights are for.
        stored: Values by name.
        where: What to call their file in messages.
        partial: Whether what does not fit may be left out; then the way by which most fits is taken.

    Raises:
        InputError: If none fits, or several fit equally well.
    """
    tried: list[Match] = []
    for match in matches(model, stored):
        if match.exact:
            return match
        tried.append(match)
    most = max(len(match.fitting) for match in tried)
    if partial and most:
        best = [match for match in tried if len(match.fitting) == most]
        return best[0] if not best[0].prefix or len(best) == 1 else _rivals(best, where)
    inside = [match for match in tried if not match.differences]
    if len(inside) > 1:
        return _rivals(inside, where)
    if inside:
        left = inside[0].left
        names = ", ".join(left[:_SHOWN]) + (", ..." if len(left) > _SHOWN else "")
        raise InputError(
            f"{where} holds this model under {inside[0].prefix!r}, and {len(left)} tensors beside it: {names}",
            "--partial leaves those out",
        )
    nearest = max((match for match in tried if not match.left), key=lambda match: len(match.fitting))
    fits = f", or --partial for the {len(nearest.fitting)} of {len(model.state_dict())} that fit"
    raise InputError(
        f"{where} is a checkpoint of another model: {nearest.differences.told()}",
        f"give the --model it was made with{fits if nearest.fitting and not partial else ''}",
    )


def _rivals(several: list[Match], where: str) -> Match:
    names = ", ".join(repr(match.prefix) for match in several[:_SHOWN])
    raise InputError(f"{where} holds this model {len(several)} times, under {names}", "save one of them alone")


def _prefixes(names: Iterable[str]) -> list[str]:
    """Return every beginning up to a dot that is not the whole of a name, the shortest first."""
    found: dict[str, None] = {}
    for name in names:
        parts = name.split(".")[:-1]
        for end in range(1, len(parts) + 1):
            found[".".join(parts[:end]) + "."] = None
    return sorted(found, key=lambda prefix: prefix.count("."))


def _aliases(model: nn.Module) -> Iterator[list[str]]:
    """Yield the names of each tensor that has several."""
    names: dict[int, list[str]] = {}
    for all_of in (model.named_parameters, model.named_buffers):
        for name, value in all_of(remove_duplicate=False):
            names.setdefault(id(value), []).append(name)
    return (several for several in names.values() if len(several) > 1)


def _fill_aliases(state: dict[str, Any], aliases: Iterable[list[str]]) -> Iterator[str]:
    for names in aliases:
        held = [name for name in names if name in state]
        missing = [name for name in names if name not in state]
        if held and missing:
            state.update(dict.fromkeys(missing, state[held[0]]))
            yield f"{', '.join(missing)} is {held[0]}, which it is tied to"
        values = [state[name] for name in held]
        if any(_differ(values[0], value) for value in values[1:]):
            yield f"{' and '.join(held)} are tied here and differ there, the last one counts"


def _differ(a: Any, b: Any) -> bool:
    return isinstance(a, Tensor) and isinstance(b, Tensor) and (a.shape != b.shape or not torch.equal(a, b))


def _fill_counters(state: dict[str, Any], own: Mapping[str, Any]) -> Iterator[str]:
    """Set what torch before 0.4.1 did not count to 0, as strict loading does, where the statistics are given."""
    missing = [
        name for name in own
        if name.rpartition(".")[2] == _COUNTER
        and name not in state
        and name.removesuffix(_COUNTER) + "running_mean" in state
    ]  # fmt: skip
    state.update({name: torch.zeros_like(own[name]) for name in missing})
    if missing:
        yield f"it has no {_COUNTER}, as before torch 0.4.1: {len(missing)} set to 0"


def _types(state: Mapping[str, Any], own: Mapping[str, Any]) -> Iterator[str]:
    """Say which values are of another type than their places."""
    pairs: dict[tuple[torch.dtype, torch.dtype], int] = {}
    for name, value in state.items():
        here = own.get(name)
        if isinstance(value, Tensor) and isinstance(here, Tensor) and value.dtype is not here.dtype:
            pairs[value.dtype, here.dtype] = pairs.get((value.dtype, here.dtype), 0) + 1
    for (there, here), count in pairs.items():
        yield f"{count} tensors are {_name(there)} there and {_name(here)} here"


def _name(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")


def _strictly_taken(model: nn.Module, state: Mapping[str, Any]) -> bool:
    """Return whether torch's strict loading takes a state_dict, tried on a twin that holds no numbers."""
    memo: dict[int, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nothing is copied to where there are no numbers
        try:
            for p in model.parameters():
                memo[id(p)] = nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
            for buffer in model.buffers():
                memo[id(buffer)] = torch.empty_like(buffer, device="meta")
            copy.deepcopy(model, memo).load_state_dict(dict(state), strict=True)
        except Exception:  # the model cannot be copied, or its hooks expect something else
            return False
    return True


@dataclass(frozen=True)
class Differences:
    """In what a state_dict is not the model's: descriptions by name."""

    missing: dict[str, str]
    unexpected: dict[str, str]
    reshaped: dict[str, str]

    @staticmethod
    def between(own: Mapping[str, Any], given: Mapping[str, Any]) -> Differences:
        """Compare names and shapes; a module's own extra state, which is no tensor, need not be given."""
        here, there = ({name: getattr(v, "shape", None) for name, v in state.items()} for state in (own, given))
        return Differences(
            {name: _shape(shape) for name, shape in here.items() if name not in given and shape is not None},
            {name: _shape(shape) for name, shape in there.items() if name not in own},
            {
                name: f"{_shape(there[name])}, here {_shape(shape)}"
                for name, shape in here.items()
                if name in given and there[name] != shape and _EXTRA not in name
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

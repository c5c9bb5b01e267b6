"""State that another process, torch version or precision has saved, as this optimizer takes it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from sharpkit.core.task import map_tensors
from sharpkit.errors import InputError, one_line

_OF_OTHERS = frozenset(
    {"params", "param_names", "initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr"}
)
"""Keys of a parameter group that are no options of an optimizer: what schedulers and torch itself put there."""

_LIKE_PARAMETERS = frozenset(
    {"momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "square_avg", "acc_delta", "grad_avg",
     "sum", "prev", "step_size", "ax"}
)  # fmt: skip
"""State of torch's own optimizers that has the shape of its parameter."""

_REMEDY = "build base and model as they were when it was saved"


def fitted_base_state(stored: Mapping[str, Any], base: Optimizer) -> dict[str, Any]:
    """Return the state dict of a base optimizer so that its `load_state_dict` takes it whole.

    As with torch, groups are matched by their order and stored options win. Options that the stored groups lack, such
    as a scheduler's `initial_lr` or one that an older torch did not have, stay as they are here, and names of
    parameters (`param_names`) are this optimizer's.

    Args:
        stored: What its `state_dict` returned.
        base: The optimizer here.

    Raises:
        InputError: If it is of other parameters, or of another kind of optimizer.
    """
    own, theirs = base.state_dict()["param_groups"], stored["param_groups"]
    sizes = [[len(group["params"]) for group in groups] for groups in (own, theirs)]
    if sizes[0] != sizes[1]:
        counts = ["+".join(map(str, each)) for each in sizes]
        raise InputError(
            "the optimizer state is of another base optimizer or of other parameters than this one: its groups hold "
            f"{counts[1]} parameters, those here {counts[0]}",
            _REMEDY,
        )
    _check_kind(stored, base, own, theirs)
    _check_shapes(stored, base)
    groups = [_fitted_group(mine, saved) for mine, saved in zip(own, theirs, strict=True)]
    # torch would share the tensors with `stored`.
    return {**stored, "state": copy.deepcopy(stored["state"]), "param_groups": groups}


def load_base_state(base: Optimizer, state: dict[str, Any]) -> None:
    """Load a state that `fitted_base_state` returned; an optimizer that cannot take it keeps its own.

    Raises:
        InputError: If it cannot.
    """
    own = base.state_dict()
    try:
        base.load_state_dict(state)
    except Exception as error:  # of any class
        base.load_state_dict(own)
        raise InputError(
            "the optimizer state is of another base optimizer or of other parameters than this one: "
            f"{type(base).__name__} cannot load it ({type(error).__name__}: {one_line(error)})",
            _REMEDY,
        ) from error


def _fitted_group(own: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in own.items() if key != "params"}
    given = {key: copy.deepcopy(value) for key, value in stored.items() if key != "param_names"}
    return {**kept, **given}


def _check_kind(
    stored: Mapping[str, Any], base: Optimizer, own: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]
) -> None:
    """Refuse the state of another class of optimizer: torch loads it, and fails or steps wrongly later."""
    here, there = set(own[0]) - _OF_OTHERS, set(theirs[0]) - _OF_OTHERS
    names = {name for held in stored["state"].values() for name in held}
    known = {name for held in base.state.values() for name in held}
    if not known and here != there:
        known = _state_of_a_step(base)
    other_options = bool(here - there) and bool(there - here)
    other_state = bool(known) and bool(names) and not (names <= known or known <= names)
    if other_options or other_state:
        told = sorted((there - here) or (names - known)), sorted((here - there) or (known - names))
        raise InputError(
            "the optimizer state is of another base optimizer or of other parameters than this one: it has "
            f"{', '.join(told[0])} in place of {', '.join(told[1])}",
            _REMEDY,
        )


def _state_of_a_step(base: Optimizer) -> set[str]:
    """Return what an optimizer of this class keeps for a parameter after a step; nothing if that cannot be tried."""
    param = torch.nn.Parameter(torch.ones(2))
    options = {key: value for key, value in base.param_groups[0].items() if key not in _OF_OTHERS}
    try:
        twin = cast("Any", type(base))([{**options, "params": [param]}])
        param.grad = torch.ones(2)
        twin.step()
    except Exception:  # of any class, which may want anything
        return set()
    return {name for held in twin.state.values() for name in held}


def _check_shapes(stored: Mapping[str, Any], base: Optimizer) -> None:
    if not type(base).__module__.startswith("torch.optim"):
        return
    numbers = [number for group in stored["param_groups"] for number in group["params"]]
    params = [p for group in base.param_groups for p in group["params"]]
    for number, param in zip(numbers, params, strict=True):
        for name, value in stored["state"].get(number, {}).items():
            if name in _LIKE_PARAMETERS and isinstance(value, Tensor) and value.dim() and value.shape != param.shape:
                raise InputError(
                    "the optimizer state is of another base optimizer or of other parameters than this one: its "
                    f"{name} of parameter {number} has shape {tuple(value.shape)}, the parameter {tuple(param.shape)}",
                    _REMEDY,
                )


def cast_memory(memory: Mapping[str, Any], params: Sequence[Tensor], stored: Sequence[str] | None) -> dict[str, Any]:
    """Return the state of a rule in the types of the parameters, as torch casts the state of an optimizer.

    A vector, a list of one tensor for each parameter, takes each one's type. Where all parameters had one type and have
    another now, so do all other tensors of the first, such as the inputs of the batch that SAMPa remembers. Whole
    numbers and masks stay as they are.

    Args:
        memory: As it was stored.
        params: The parameters here.
        stored: The types that they had; None in states of earlier versions, where those of the vectors tell.
    """
    if stored is None:
        vectors = [value for value in memory.values() if _is_vector(value, params)]
        before = {t.dtype for vector in vectors for t in vector if t.is_floating_point()}
    else:
        before = {cast("torch.dtype", getattr(torch, name)) for name in stored}
    now = {p.dtype for p in params}
    one = next(iter(before)) if len(before) == 1 and len(now) == 1 else None

    def converted(t: Tensor) -> Tensor:
        return t.to(params[0].dtype) if t.dtype == one and not t.is_complex() else t

    def fitted(value: Any) -> Any:
        if not _is_vector(value, params):
            return map_tensors(converted, value)
        return [t.to(_type_of(p, t)) for t, p in zip(value, params, strict=True)]

    return {key: fitted(value) for key, value in memory.items()}


def _type_of(param: Tensor, value: Tensor) -> torch.dtype:
    """Return the type that a value of a vector takes; those of complex parameters are pairs of real numbers."""
    if value.is_complex():
        return param.dtype if param.is_complex() else value.dtype
    if not value.is_floating_point():
        return value.dtype
    return param.dtype.to_real()


def _is_vector(value: Any, params: Sequence[Tensor]) -> bool:
    if not isinstance(value, list):
        return False
    values = cast("list[Any]", value)
    return len(values) == len(params) and all(
        isinstance(t, Tensor) and t.shape in (p.shape, (*p.shape, 2) if p.is_complex() else p.shape)
        for t, p in zip(values, params, strict=True)
    )

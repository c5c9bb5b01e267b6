"""A model while it is measured: one function of its weights, and afterwards as it was, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor, nn

from sharpkit.core.parameters import check_initialised
from sharpkit.core.snapshot import Snapshot
from sharpkit.core.undisturbed import undisturbed
from sharpkit.diagnostics.substitutes import direct_checkpoints
from sharpkit.errors import UsageError

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def measured(model: nn.Module) -> Generator[tuple[Snapshot, list[str]]]:
    """Make a model one function of its weights while the context lasts, and put it back at the end, bit for bit.

    What is put back is said at `sharpkit.core.snapshot.Snapshot`, with the random streams of torch, Python and NumPy.

    An embedding with `max_norm` writes to its table in every forward pass: it scales the rows that it looks up to that
    norm. What is measured is the network with all rows scaled once, as their next use would do, and looked up as they
    are from then on. At w that is the loss and the gradient that training sees; around w it is a plain table, whose
    rows may be longer than `max_norm`.

    Reentrant checkpoints call their functions and keep the activations: see `direct_checkpoints`.

    Args:
        model: Has parameters.

    Returns:
        What the model was, and notes on what is measured.

    Raises:
        UsageError: If the model has no parameters, or some that are not initialised yet.
    """
    first = next(model.parameters(), None)
    if first is None:
        raise UsageError("the model has no parameters", "give a model that can be trained")
    check_initialised(model)
    with undisturbed(model, first.device) as before, direct_checkpoints():
        yield before, _without_max_norm(model)


def as_it_was(function: Callable[P, R]) -> Callable[P, R]:
    """Have a function of a model, its first argument, leave the model and the random streams as they were."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with measured(cast("nn.Module", args[0] if args else kwargs["model"])):
            return function(*args, **kwargs)

    return run


def modules_of(model: nn.Module) -> dict[str, nn.Module]:
    """Return a model's modules by name, each once."""
    return dict(cast("Iterator[tuple[str, nn.Module]]", model.named_modules()))


def scaled_to_max_norm(model: nn.Module, name: str, values: Tensor) -> Tensor:
    """Return the values of a parameter as `measured` takes them: those of a table with `max_norm` scaled, others as is.

    Args:
        model: Not in `measured`, or in it.
        name: The parameter's.
        values: Of its shape, such as another checkpoint's.
    """
    owner, _, own = name.rpartition(".")
    module: Any = model.get_submodule(owner)
    limit = _limit(module)
    if own != "weight" or limit is None:
        return values
    return _scaled(values.detach().clone(), *limit)


_KEPT = "_sharpkit_max_norm"
"""The attribute that keeps `max_norm` and `norm_type` of a table while it is measured."""


def _limit(module: nn.Module) -> tuple[float, float] | None:
    """Return `max_norm` and `norm_type` of a table, also while it is measured; None of others."""
    if not isinstance(module, nn.Embedding | nn.EmbeddingBag) or not isinstance(module.weight, nn.Parameter):
        return None
    kept = vars(module).get(_KEPT)
    if kept is not None:
        return kept
    return None if module.max_norm is None else (float(module.max_norm), float(module.norm_type))


def _without_max_norm(model: nn.Module) -> list[str]:
    """Scale the rows of tables with `max_norm`, and look them up as they are from now on; return notes."""
    notes: list[str] = []
    for name, module in modules_of(model).items():
        limit = _limit(module)
        if limit is None:
            continue
        if _KEPT not in vars(module):
            embedding = cast("nn.Embedding", module)
            with torch.no_grad():
                _scaled(embedding.weight, *limit)
            vars(module)[_KEPT], embedding.max_norm = limit, None
        table = name or "the model"
        notes.append(f"the rows of {table} are scaled to max_norm={limit[0]:g} once, and not again at other weights")
    return notes


def _scaled(table: Tensor, most: float, order: float) -> Tensor:
    """Scale the rows (n, d) whose norm is above `most`, in place, as `torch.nn.functional.embedding` does."""
    rows = torch.arange(len(table), device=table.device)
    torch.embedding_renorm_(table.detach(), rows, most, order)
    return table

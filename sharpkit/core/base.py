"""What the engine asks of a base optimizer: its parameters, and where it would step without stepping."""

from __future__ import annotations

import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sharpkit.core import vec
from sharpkit.core.point import restored
from sharpkit.core.task import map_tensors
from sharpkit.core.vec import Vec
from sharpkit.errors import SharpkitWarning, UsageError

LookAhead = Literal["peek", "plain"]
"""`peek`: the base optimizer's own next step; `plain`: w - lr * direction."""


def check_base(base: Optimizer) -> None:
    """Refuse a base optimizer that evaluates the loss itself.

    Raises:
        UsageError: If it is not a torch optimizer, or needs a closure.
    """
    if not isinstance(base, Optimizer):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError(
            f"base is {type(base).__name__}, allowed is a torch.optim.Optimizer",
            "give torch.optim.SGD(...), for example",
        )
    if isinstance(base, torch.optim.LBFGS):
        raise UsageError(
            "base is LBFGS, which evaluates the loss itself", "use SGD, Adam, AdamW or another first-order one"
        )


def trainable(model: nn.Module, base: Optimizer) -> tuple[list[str], list[Tensor]]:
    """Return names and tensors of all parameters that the base optimizer steps, the model's in its own order first.

    Raises:
        UsageError: If there are none.
    """
    held = {id(p) for group in base.param_groups for p in group["params"] if p.requires_grad}
    found = {id(p): (name, p) for name, p in model.named_parameters() if id(p) in held}
    for g, group in enumerate(base.param_groups):
        for i, p in enumerate(group["params"]):
            if id(p) in held and id(p) not in found:
                found[id(p)] = (f"base.{g}.{i}", p)
    if not found:
        raise UsageError(
            "the base optimizer holds no trainable parameter", "build it with model.parameters() that require gradients"
        )
    for name, p in found.values():
        if p.dtype in (torch.bfloat16, torch.float16):
            warnings.warn(
                f"parameter {name} is stored in {p.dtype}, where a perturbation of radius 0.05 moves only about half "
                "of the coordinates: keep the weights in float32 and use precision='bf16'",
                SharpkitWarning,
                stacklevel=3,
            )
            break
    return [name for name, _ in found.values()], [p for _, p in found.values()]


def owners(model: nn.Module, params: Sequence[Tensor]) -> list[nn.Module | None]:
    """Return the module that holds each parameter itself, the first of several; None for one outside the model."""
    holds: dict[int, nn.Module] = {}
    for module in model.modules():
        for p in module.parameters(recurse=False):
            holds.setdefault(id(p), module)
    return [holds.get(id(p)) for p in params]


def check_unchanged(base: Optimizer, params: Sequence[Tensor]) -> None:
    """Refuse parameters that became trainable, or were added, after the optimizer was built.

    Raises:
        UsageError: If the base optimizer holds trainable parameters that are not in `params`.
    """
    held = sum(p.requires_grad for group in base.param_groups for p in group["params"])
    known = sum(p.requires_grad for p in params)
    if not known:
        raise UsageError("no parameter of the base optimizer is trainable any more", "unfreeze some")
    if held != known:
        raise UsageError(
            f"the base optimizer holds {held} trainable tensors, {known} of which were trainable when SharpnessAware "
            "was built",
            "build it anew after unfreezing or adding parameters",
        )


def look_ahead(
    base: Optimizer, params: Sequence[Tensor], direction: Vec, how: LookAhead, reached: Sequence[bool] | None = None
) -> Vec:
    """Return y - w, where y is where the base optimizer would step from w with `direction` as its gradient.

    Momentum, Nesterov, weight decay, moments and the current learning rates are those of the base optimizer; neither
    its state nor w changes.

    Args:
        base: Any torch optimizer.
        params: The parameters that `direction` is aligned with.
        direction: Taken for the gradient.
        how: `peek` runs the optimizer's own step on a ghost of its state, `plain` is -lr * direction. An optimizer
            that keeps tensors outside `state` and `param_groups` must be looked ahead with `plain`.
        reached: Which parameters have a gradient at all; a real step leaves the others alone. None is all.
    """
    if how == "plain":
        rates = {p: float(group["lr"]) for group in base.param_groups for p in group["params"]}
        return [d.mul(-rates[p]) for p, d in zip(params, direction, strict=True)]
    if type(base) is torch.optim.SGD and not any(group["maximize"] for group in base.param_groups):
        return _sgd_ahead(base, params, direction, reached or [True] * len(params))
    ghost = _ghost(base)

    def run(before: Vec) -> Vec:
        for i, (p, d) in enumerate(zip(params, vec.clone(direction), strict=True)):
            p.grad = d if reached is None or reached[i] else None
        try:
            with torch.no_grad():
                _unhooked_step(ghost)
                return vec.sub(params, before)
        finally:
            for p in params:
                p.grad = None

    return restored(params, run)


def _sgd_ahead(base: torch.optim.SGD, params: Sequence[Tensor], direction: Vec, reached: Sequence[bool]) -> Vec:
    """Return y - w of torch's SGD from its formula, at half the cost of a ghost's step.

    g = d + wd w; m = mu m + (1 - damp) g, or g where there is no m yet; y - w = -lr (g + mu m if Nesterov, else m).
    """
    place = {p: i for i, p in enumerate(params) if reached[i]}
    offset = [torch.empty(0)] * len(params)
    for i, p in enumerate(params):
        if not reached[i]:
            offset[i] = torch.zeros_like(p, requires_grad=False)
    for group in base.param_groups:
        rows = [place[p] for p in group["params"] if p in place]
        if not rows:
            continue
        heading = [direction[i] for i in rows]
        if group["weight_decay"]:
            heading = vec.add(heading, [params[i] for i in rows], alpha=group["weight_decay"])
        if momentum := group["momentum"]:
            grads, held = heading, [base.state.get(params[i], {}).get("momentum_buffer") for i in rows]
            old = [g if m is None else m for g, m in zip(grads, held, strict=True)]
            new = vec.scale(old, momentum)
            vec.add_(new, grads, alpha=1 - group["dampening"])
            heading = [g if m is None else n for g, m, n in zip(grads, held, new, strict=True)]
            if group["nesterov"]:
                heading = vec.add(grads, heading, alpha=momentum)
        for i, h in zip(rows, vec.scale(heading, -group["lr"]), strict=True):
            offset[i] = h
    return offset


def _ghost(base: Optimizer) -> Any:
    """Return an optimizer of the same kind and hyperparameters on the same parameters, with a copied state.

    It is built past `__init__` so that any optimizer class works, and it has no hooks, so that a scheduler or a
    logger attached to the real one does not see its steps.
    """
    ghost: Any = object.__new__(type(base))
    ghost.__dict__.update(base.__dict__)
    for hooks in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"):
        setattr(ghost, hooks, OrderedDict())
    ghost.param_groups = [dict(group) for group in base.param_groups]
    state = {p: map_tensors(torch.clone, values) for p, values in base.state.items()}
    ghost.state = defaultdict(dict, state)
    return ghost


def _unhooked_step(ghost: Any) -> None:
    """Call the class's own step, past the counting step that schedulers bind to an instance and past global hooks."""
    kind = cast("Any", type(ghost))
    hooked = getattr(kind.step, "hooked", False)
    (kind.step.__wrapped__ if hooked else kind.step)(ghost)

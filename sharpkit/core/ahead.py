"""Where a base optimizer would step, without stepping: by a formula, or by its own step on a ghost of its state."""

from __future__ import annotations

import math
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from sharpkit.core import vec
from sharpkit.core.point import restored
from sharpkit.core.task import map_tensors
from sharpkit.core.vec import Vec

LookAhead = Literal["peek", "plain"]
"""`peek`: the base optimizer's own next step; `plain`: w - lr * direction."""

Group = Mapping[str, Any]
Formula = Callable[[Group, Vec, Vec, Sequence[Mapping[str, Any]]], Vec]
"""`(group, w, direction, state of each) -> y - w`."""

_ADAM_OPTIONS = frozenset({
    *("lr", "betas", "eps", "weight_decay", "decoupled_weight_decay", "amsgrad", "maximize"),
    *("foreach", "fused", "capturable", "differentiable"),
})  # fmt: skip


@torch.no_grad()
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
        how: `peek` is the optimizer's own step: of torch's SGD, Adam and AdamW by their formulas, of others taken on
            a ghost of their state. `plain` is -lr * direction; an optimizer that keeps tensors outside `state` and
            `param_groups` needs it.
        reached: Which parameters have a gradient at all; a real step leaves the others alone. None is all.
    """
    if how == "plain":
        rates = {p: float(group["lr"]) for group in base.param_groups for p in group["params"]}
        return [d.mul(-rates[p]) for p, d in zip(params, direction, strict=True)]
    formula = _formula_of(base, params)
    if formula is not None:
        return _by_formula(base, params, direction, reached or [True] * len(params), formula)
    ghost = _ghost(base)

    def run(before: Vec) -> Vec:
        for i, (p, d) in enumerate(zip(params, vec.clone(direction), strict=True)):
            p.grad = d if reached is None or reached[i] else None
        try:
            _unhooked_step(ghost)
            return vec.sub(params, before)
        finally:
            for p in params:
                p.grad = None

    return restored(params, run)


def _formula_of(base: Optimizer, params: Sequence[Tensor]) -> Formula | None:
    """Return the formula of the optimizer's step; None where it has an option or a state that none here knows."""
    if type(base) is torch.optim.SGD:
        return None if any(group["maximize"] for group in base.param_groups) else _sgd
    if type(base) not in (torch.optim.Adam, torch.optim.AdamW) or not _ADAM_OPTIONS.issuperset(base.defaults):
        return None
    numbers = [(group["lr"], *group["betas"], group["eps"], group["weight_decay"]) for group in base.param_groups]
    counts = [base.state.get(p, {}).get("step") for p in params]
    known = (
        not any(isinstance(value, Tensor) for values in numbers for value in values)
        and not any(group["capturable"] or group["differentiable"] for group in base.param_groups)
        # A count on a device would have to be read from it.
        and not any(isinstance(count, Tensor) and count.device.type != "cpu" for count in counts)
        and not any(p.is_complex() for p in params)
    )
    return _adam if known else None


def _by_formula(
    base: Optimizer, params: Sequence[Tensor], direction: Vec, reached: Sequence[bool], formula: Formula
) -> Vec:
    place = {p: i for i, p in enumerate(params) if reached[i]}
    offset = [
        torch.empty(0) if has else torch.zeros_like(p, requires_grad=False)
        for p, has in zip(params, reached, strict=True)
    ]
    for group in base.param_groups:
        rows = [place[p] for p in group["params"] if p in place]
        if not rows:
            continue
        weights = [params[i] for i in rows]
        found = formula(group, weights, [direction[i] for i in rows], [base.state.get(p, {}) for p in weights])
        for i, o in zip(rows, found, strict=True):
            offset[i] = o
    return offset


def _sgd(group: Group, weights: Vec, direction: Vec, states: Sequence[Mapping[str, Any]]) -> Vec:
    """Return y - w of torch's SGD.

    g = d + wd w; m = mu m + (1 - damp) g, or g where there is no m yet; y - w = -lr (g + mu m if Nesterov, else m).
    """
    heading = direction
    if group["weight_decay"]:
        heading = vec.add(heading, weights, alpha=group["weight_decay"])
    if momentum := group["momentum"]:
        grads, held = heading, [state.get("momentum_buffer") for state in states]
        old = [g if m is None else m for g, m in zip(grads, held, strict=True)]
        new = vec.scale(old, momentum)
        vec.add_(new, grads, alpha=1 - group["dampening"])
        heading = [g if m is None else n for g, m, n in zip(grads, held, new, strict=True)]
        if group["nesterov"]:
            heading = vec.add(grads, heading, alpha=momentum)
    return vec.scale(heading, -group["lr"])


def _adam(group: Group, weights: Vec, direction: Vec, states: Sequence[Mapping[str, Any]]) -> Vec:
    """Return y - w of torch's Adam and AdamW.

    g = d, or -d if it maximizes, and g + wd w unless the decay is decoupled;
    m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2; s = v, or the largest v so far with amsgrad; t counts from 1;
    y - w = -lr m / (1 - b1^t) / (sqrt(s / (1 - b2^t)) + eps) - lr wd w if the decay is decoupled.
    """
    names = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq")
    moments = ([_held(state, name, w) for state, w in zip(states, weights, strict=True)] for name in names)
    steps = [float(state.get("step", 0)) + 1 for state in states]
    offset = [torch.empty_like(w, requires_grad=False) for w in weights]
    every = (offset, weights, direction, *moments)
    for t in set(steps):
        vectors = [[x for x, step in zip(v, steps, strict=True) if step == t] for v in every]
        for block in vec.blocks(*vectors):
            _adam_block(group, t, *block)
    return offset


def _adam_block(group: Group, t: float, out: Vec, w: Vec, d: Vec, m: Vec, v: Vec, most: Vec) -> None:
    """Fill `out` with y - w at the step t."""
    (beta1, beta2), lr, decay = group["betas"], group["lr"], group["weight_decay"]
    g = vec.scale(d, -1.0) if group["maximize"] else d
    if decay and not group["decoupled_weight_decay"]:
        g = vec.add(g, w, alpha=decay)
    m = vec.lerp(m, g, 1 - beta1)
    s = vec.scale(v, beta2)
    vec.addcmul_(s, g, g, 1 - beta2)
    if group["amsgrad"]:
        vec.maximum_(s, most)
    vec.sqrt_(s)
    correction = math.sqrt(1 - beta2**t)
    vec.shift_(s, group["eps"] * correction)
    vec.copy_(out, w)
    vec.scale_(out, -lr * decay if group["decoupled_weight_decay"] else 0.0)
    vec.addcdiv_(out, m, s, -lr * correction / (1 - beta1**t))


def _held(state: Mapping[str, Any], name: str, like: Tensor) -> Tensor:
    found = state.get(name)
    return torch.zeros_like(like, requires_grad=False) if found is None else found


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

"""Where a base optimizer would step, without stepping: by a formula, or by the step of a double."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from sharpkit.core import vec
from sharpkit.core.double import Double, steps_as_its_class, unwrapped
from sharpkit.core.randomness import undrawn
from sharpkit.core.vec import Vec
from sharpkit.errors import UsageError, one_line

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
        how: `peek` is the optimizer's own step: of torch's SGD, Adam and AdamW by their formulas, of others by a
            double of the whole optimizer. `plain` is -lr * direction.
        reached: Which parameters have a gradient at all; a real step leaves the others alone. None is all.

    Raises:
        UsageError: If the optimizer can be neither computed nor copied, or its step raises.
    """
    if how == "plain":
        rates = {p: float(group["lr"]) for group in base.param_groups for p in group["params"]}
        return [d.mul(-rates[p]) for p, d in zip(params, direction, strict=True)]
    base, reached = unwrapped(base), reached or [True] * len(params)
    formula = _formula_of(base, params)
    if formula is not None:
        return _by_formula(base, params, direction, reached, formula)
    return _by_double(base, params, direction, reached)


def _formula_of(base: Optimizer, params: Sequence[Tensor]) -> Formula | None:
    """Return the formula of the optimizer's step; None where it has an option or a state that none here knows."""
    if not steps_as_its_class(base):
        return None
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


def _by_double(base: Optimizer, params: Sequence[Tensor], direction: Vec, reached: Sequence[bool]) -> Vec:
    double = Double(base)
    copies = [double.of(p) for p in params]
    for p, d, has in zip(copies, vec.clone(direction), reached, strict=True):
        p.grad = d if has else None
    try:
        with undrawn(params[0].device):
            double.step()
    except Exception as error:
        raise UsageError(
            f"the base optimizer {type(base).__name__} cannot take a step to look ahead: {one_line(error)}",
            "make ready what it asks for, or use a rule with y_step=plain",
        ) from error
    return vec.sub(copies, [p.detach() for p in params])


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

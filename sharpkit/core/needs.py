"""Whether the optimizer is given what it allows, and a rule what it cannot do without; what to do where not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

from sharpkit.core.base import check_base
from sharpkit.core.comm import Comm
from sharpkit.core.passes import ROLES
from sharpkit.core.rule import Rule
from sharpkit.errors import UsageError, check_range

_REMEDIES = {
    "batch": "call opt.step((inputs, targets)) instead of opt.step(closure)",
    "indices": "call opt.step((inputs, targets, indices)) with stable sample numbers",
    "whole_batch": "use shards=1, or leave msam out of the union",
    "total_steps": "give SharpnessAware(..., total_steps=...)",
    "steps_per_epoch": "give SharpnessAware(..., steps_per_epoch=...)",
    "samples": "give SharpnessAware(..., samples=...), the number of training samples",
    "whole_tensors": "its masks compare the entries of all parameters, which here are sharded; use another recipe",
    "past": "weights that stand still have none; leave that recipe out of the union",
}


def check_options(rule: Any, base: Optimizer, bn_stats: str, clip: float | None, loss_decay: float) -> None:
    """Refuse options that are out of range or contradict each other.

    Raises:
        UsageError: If one is, or the rule or the base optimizer is of a kind that does not work.
    """
    if bn_stats not in ROLES:
        raise UsageError(f"bn_stats is {bn_stats!r}, allowed are {', '.join(ROLES)}", "use clean")
    if clip is not None:
        check_range("clip", clip, 0, open_low=True)
    check_range("loss_decay", loss_decay, 0)
    if not isinstance(rule, Rule):
        raise UsageError(f"rule is {type(rule).__name__}, allowed are a recipe string and a Rule", "use 'sam'")
    check_base(base)
    if loss_decay and any(group.get("weight_decay") for group in base.param_groups):
        raise UsageError(
            f"loss_decay is {loss_decay:g}, and the base optimizer decays the weights as well",
            "build the base optimizer with weight_decay=0",
        )


def check_independent(
    rule: Rule, pair: Comm, streams: bool, comm: Comm, rng: str, bn_stats: str, precision: str
) -> None:
    """Refuse to compute two gradients of a step at once where that would not be what one after the other gives.

    Raises:
        UsageError: If so.
    """
    way = "on two streams" if streams else "on two ranks"
    turn = "compute them in turn"
    if rule.descent is None or not rule.descent.independent:
        raise UsageError(
            f"the gradients of {rule.name} depend on each other and cannot be computed {way}",
            "use sampa, or give every rank a part of the batch",
        )
    if rng == "fresh":
        raise UsageError(f"rng is 'fresh', and {way} neither gradient draws after the other", f"use same, or {turn}")
    if bn_stats == "both":
        raise UsageError(
            f"bn_stats is 'both', and {way} neither pass sees what the other left", f"use clean, or {turn}"
        )
    if pair.size not in (1, 2):
        raise UsageError(f"the pair is {pair.size} ranks, allowed are 2", "give what Ranks.pairs() returned")
    if streams and (pair.size > 1 or comm.size > 1):
        raise UsageError("streams are given on several ranks, allowed are they on one", f"use the pair, or {turn}")
    if streams and precision == "fp16":
        raise UsageError("precision is 'fp16', which does not run on two streams", f"use bf16, or {turn}")


def check_needs(rule: Rule, given: Mapping[str, Any]) -> None:
    """Refuse a rule that needs something which is None.

    Args:
        rule: Its parts say what they need.
        given: Some of what there is, by the need's name.

    Raises:
        UsageError: If something is missing.
    """
    for need in sorted(rule.needs()):
        if need in given and given[need] is None:
            raise UsageError(f"the rule {rule.name} needs {need}, which was not given", _REMEDIES[need])

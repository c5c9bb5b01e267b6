"""Whether a rule is given what it cannot do without, and what to do where it is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sharpkit.core.rule import Rule
from sharpkit.errors import UsageError

_REMEDIES = {
    "batch": "call opt.step((inputs, targets)) instead of opt.step(closure)",
    "indices": "call opt.step((inputs, targets, indices)) with stable sample numbers",
    "whole_batch": "use shards=1, or leave msam out of the union",
    "total_steps": "give SharpnessAware(..., total_steps=...)",
    "steps_per_epoch": "give SharpnessAware(..., steps_per_epoch=...)",
    "samples": "give SharpnessAware(..., samples=...), the number of training samples",
}


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

"""Everything that the next step depends on, but for the model and the batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from sharpkit.core.comm import ALONE, Comm
from sharpkit.core.memory import Memory
from sharpkit.core.precision import Precision
from sharpkit.core.report import StepReport, Totals
from sharpkit.core.resharding import gathered, scattered
from sharpkit.core.step import Step
from sharpkit.core.stored_state import cast_memory, fitted_base_state, load_base_state
from sharpkit.core.whole import collected, dealt, dealt_base
from sharpkit.errors import InputError

_KEYS = ("rule", "base", "memory", "precision", "generator", "totals", "tallies")


class State:
    """The base optimizer's state, the rule's memory, the loss scale, the random stream and the counters.

    Args:
        base: The base optimizer.
        params: Its parameters, as the rule's vectors are aligned with them.
        precision: Holds the loss scale.
        seed: Of the rule's own random choices.
        comm: The ranks.
        sharded: The parameters, if they are sharded.
        apart: Whether every rank has shards of its own.
        shards: That a rank cuts its part of a batch into, or all of them the whole batch.
    """

    def __init__(
        self,
        base: Optimizer,
        params: Sequence[Tensor],
        precision: Precision,
        seed: int,
        comm: Comm = ALONE,
        *,
        sharded: Sequence[Tensor] | None = None,
        apart: bool = False,
        shards: int = 1,
    ) -> None:
        self._comm = comm
        self._sharded = sharded
        self._apart = apart
        self._shards = shards
        self.memory = Memory()
        self.generator = torch.Generator().manual_seed(seed)
        self.totals = Totals()
        self._base = base
        self._precision = precision
        self._params = params
        self._device = params[0].device
        self._tallies: dict[str, Tensor] = {}

    def count(self, report: StepReport, steps: Iterable[Step]) -> None:
        """Add what a step did to the counters."""
        self.totals.add(report)
        for step in steps:
            for name, happened in step.tallies.items():
                before = self._tallies.get(name)
                self._tallies[name] = happened.to(torch.int64) if before is None else before + happened

    def counters(self) -> dict[str, float]:
        """Return the sums over all steps; waits for the device."""
        tallies = {name: int(count) for name, count in self._tallies.items()}
        return {**asdict(self.totals), "zero_norm": 0, "nonfinite_norm": 0, **tallies}

    def pack(self, rule: str) -> dict[str, Any]:
        """Return all of it as plain data; every rank takes part, and all return the same.

        Where parameters are sharded rank 0 alone has room for what is whole, and the others return nothing.

        Args:
            rule: The rule's name, which is stored with it.
        """
        packed = {
            "rule": rule,
            "base": self._base.state_dict(),
            "dtypes": [str(p.dtype).removeprefix("torch.") for p in self._params],
            "memory": gathered(self.memory.state_dict(), self._comm, apart=self._apart),
            "precision": self._precision.state_dict(),
            "generator": self.generator.get_state(),
            "totals": asdict(self.totals),
            "tallies": {name: int(count) for name, count in self._tallies.items()},
        }
        if self._sharded is None:
            return packed
        first = self._comm.rank == 0
        every = collected(packed, keep=first)
        return every if first else {}

    def unpack(self, stored: Mapping[str, Any], rule: str) -> None:
        """Replace all of it by what was packed.

        Raises:
            InputError: If it is another rule's or another kind of base optimizer's, or incomplete.
        """
        missing = [key for key in _KEYS if key not in stored]
        if missing:
            of = "" if self._sharded is None else " on rank 0"
            raise InputError(
                f"the optimizer state has no {', '.join(missing)}", f"give one that state_dict() returned{of}"
            )
        if sorted(stored["rule"].split("+")) != sorted(rule.split("+")):
            raise InputError(
                f"the optimizer state is of rule {stored['rule']!r}, this optimizer's rule is {rule!r}",
                "build the optimizer with the rule that was saved",
            )
        base = fitted_base_state(stored["base"], self._base)
        memory = cast_memory(stored["memory"], self._params, stored.get("dtypes"))
        own = scattered(memory, self._comm, apart=self._apart and self._comm.size > 1, shards=self._shards)
        load_base_state(self._base, base if self._sharded is None else dealt_base(base, self._base))
        self.memory.load_state_dict(own if self._sharded is None else dealt(own, self._sharded), self._device)
        self._precision.load_state_dict(stored["precision"])
        self.generator.set_state(stored["generator"].cpu())
        self.totals = Totals(**stored["totals"])
        self._tallies = {name: torch.tensor(count, device=self._device) for name, count in stored["tallies"].items()}

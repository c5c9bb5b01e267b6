"""What a rule remembers from one step to the next: plain data, owned by the engine, checkpointed whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch

from sharpkit.core import vec
from sharpkit.core.comm import Comm
from sharpkit.core.task import map_tensors
from sharpkit.core.vec import Vec


class Memory:
    """Named plain values (numbers, tensors, lists and dicts of them) that outlive a step.

    What a step writes is kept only when the step succeeds, so a step that raises leaves no trace. A value must be
    replaced, not changed in place, and must not share storage with the gradient handed to the base optimizer. A table
    that is too large to be replaced at every step is changed row by row with `write`.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Any] = {}
        self._staged: dict[str, Any] = {}
        self._writes: list[tuple[str, tuple[Any, ...], Any]] = []
        self._pooled: list[str] = []

    def __contains__(self, key: str) -> bool:
        return key in self._staged or key in self._kept

    def __getitem__(self, key: str) -> Any:
        return self._staged[key] if key in self._staged else self._kept[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._staged[key] = value

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value, or the default where there is none."""
        if key in self._staged:
            return self._staged[key]
        return self._kept.get(key, default)

    def kept(self, key: str) -> Any:
        """Return a value as it was before this step, None where there was none."""
        return self._kept.get(key)

    def write(self, key: str, place: tuple[Any, ...], values: Any) -> None:
        """Have `table[place] = values` done when the step succeeds."""
        self._writes.append((key, place, values))

    def pool(self, key: str, part: Vec) -> None:
        """Add to a vector that the shards of a step make together; it is whole after `settle`."""
        self._staged[key] = vec.add(self._staged[key], part) if key in self._pooled else part
        if key not in self._pooled:
            self._pooled.append(key)

    def settle(self, across: Comm, pair: Comm) -> None:
        """Add up what the shards on other ranks have pooled; both ranks of a pair take the first one's sum."""
        for key in self._pooled:
            across.sum_(self._staged[key])
            pair.broadcast_(self._staged[key])

    def commit(self) -> None:
        """Keep what has been written since the last commit."""
        self._kept.update(self._staged)
        for key, place, values in self._writes:
            self._kept[key][place] = values
        self._staged.clear()
        self._writes.clear()
        self._pooled.clear()

    def roll_back(self) -> None:
        """Forget what has been written since the last commit."""
        self._staged.clear()
        self._writes.clear()
        self._pooled.clear()

    def rearrange(self, function: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        """Replace all kept values, by key, by what a function makes of them, between steps."""
        self._kept = function(self._kept)
        self.roll_back()

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of every kept value."""
        return {key: map_tensors(torch.clone, value) for key, value in self._kept.items()}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Replace every value by stored ones, tensors on the given device."""
        self._kept = {key: map_tensors(lambda t: t.to(device, copy=True), value) for key, value in state.items()}
        self.roll_back()


class Drawer:
    """The part of a memory that belongs to one shard of the batch, or to all of them together.

    Args:
        memory: The whole memory.
        owner: The shard's number, or `all`.
    """

    def __init__(self, memory: Memory, owner: int | Literal["all"]) -> None:
        self._memory = memory
        self._prefix = f"{owner}/"

    def __contains__(self, key: str) -> bool:
        return self._prefix + key in self._memory

    def __getitem__(self, key: str) -> Any:
        return self._memory[self._prefix + key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._memory[self._prefix + key] = value

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value, or the default where there is none."""
        return self._memory.get(self._prefix + key, default)

    def kept(self, key: str) -> Any:
        """Return a value as it was before this step, None where there was none."""
        return self._memory.kept(self._prefix + key)

    def write(self, key: str, place: tuple[Any, ...], values: Any) -> None:
        """Have `table[place] = values` done when the step succeeds."""
        self._memory.write(self._prefix + key, place, values)

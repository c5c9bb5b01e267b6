"""Which passes of a step leave their buffers (batch-norm statistics) in the model."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from sharpkit.core.buffers import Buffers
from sharpkit.core.passes import Role


class BufferUpdates:
    """Keeps the buffers that passes in some roles leave, and undoes those of the other passes.

    Where perturbed passes alone are to be kept, and a step has none, its clean passes are kept instead, so that every
    step updates the buffers. Whether a perturbed pass follows may be known only after the clean pass. So until then
    what clean passes make of the buffers is held beside the model, each pass starting from what the one before left.

    Args:
        model: Its buffers, at any depth.
        roles: The roles whose passes are kept.
    """

    def __init__(self, model: nn.Module, roles: frozenset[Role]) -> None:
        self._model = model
        self._roles = roles
        self._falls_back = "perturbed" in roles and "clean" not in roles
        self.begin()

    def begin(self) -> None:
        """Begin a step."""
        self._kept = self._roles
        self._pending: list[Tensor] | None = None
        self._settled = not self._falls_back
        self.parts: Sequence[int] | None = None  # samples per rank of the last pass that was kept; None on one rank

    def keeps(self, role: Role) -> bool:
        """Return whether a pass in this role leaves the buffers as its forward pass made them."""
        return role in self._kept

    def settle(self) -> None:
        """Note that a pass has been kept, here or on another rank, so that nothing falls back on the clean ones."""
        self._settled, self._pending = True, None

    def expect_no_perturbed_pass(self) -> None:
        """Keep the clean passes of this step where perturbed ones would be, those that have been made included."""
        if not self._settled:
            self._kept = self._roles | {"clean"}
            self.end()

    def end(self) -> None:
        """End a step: give the model what its clean passes made of the buffers if no perturbed pass was made."""
        if self._pending is not None:
            Buffers.of(self._model).fill(self._pending)
        self.settle()

    @contextmanager
    def passing(self, role: Role, parts: Sequence[int] | None = None) -> Generator[None]:
        """Make a pass in a role, over so many samples on every rank."""
        if self.keeps(role):
            yield
            self.parts = parts
            self.settle()
            return
        before = Buffers.of(self._model)
        provisional = role == "clean" and not self._settled
        try:
            if provisional and self._pending is not None:
                before.fill(self._pending)
            yield
            if provisional:
                self._pending = Buffers.of(self._model).copies
        finally:
            before.put_back()

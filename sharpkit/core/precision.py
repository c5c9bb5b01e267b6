"""Mixed precision: the autocast of the forward pass and the one loss scale that all passes of a step share."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from sharpkit.core import vec
from sharpkit.core.vec import Vec
from sharpkit.errors import DivergedError, UsageError

Mode = Literal["off", "bf16", "fp16"]

_INITIAL_SCALE = 2.0**16
_GROWTH_INTERVAL = 2000
_SMALLEST_SCALE = 2.0**-24  # the spacing of the smallest float16 numbers


class Precision:
    """The numeric types of a step's passes.

    In `fp16` the loss is multiplied by one scale S in every pass of a step, and each gradient is divided by S at once,
    so that no rule ever sees a scaled gradient (AE-SAM, VaSSO, SAMPa and others are not invariant to it). A gradient
    or loss that is not finite makes the engine drop the step; S is halved after such a step and doubled after 2000 good
    ones, once a step. torch.amp.GradScaler cannot be used: it allows one `unscale_` a step.

    Args:
        mode: `off`, `bf16` (autocast, no scale) or `fp16` (autocast and scale).
        device: Where the model runs.

    Raises:
        UsageError: If the mode is unknown.
    """

    def __init__(self, mode: Mode, device: torch.device) -> None:
        if mode not in get_args(Mode):
            raise UsageError(f"precision is {mode!r}, allowed are {', '.join(get_args(Mode))}", "use off")
        self.mode: Mode = mode
        self._device = device
        self._scale = _INITIAL_SCALE
        self._good_steps = 0
        self._overflow = torch.zeros((), dtype=torch.bool, device=device)

    @property
    def scaled(self) -> bool:
        """Whether losses are scaled, hence steps may be dropped."""
        return self.mode == "fp16"

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context of a forward pass."""
        if self.mode == "off":
            return nullcontext()
        dtype = torch.bfloat16 if self.mode == "bf16" else torch.float16
        return torch.autocast(self._device.type, dtype=dtype)

    def scale(self, loss: Tensor) -> Tensor:
        """Return the loss that is differentiated."""
        return loss * self._scale if self.scaled else loss

    def unscale_(self, grads: Vec) -> None:
        """Divide gradients by the scale and remember whether any is not finite."""
        if not self.scaled:
            return
        vec.scale_(grads, 1.0 / self._scale)
        self.watch_gradient(grads)

    def watch_gradient(self, grads: Vec) -> None:
        """Remember whether a gradient, divided by the scale already, is not finite."""
        if self.scaled:
            self._overflow |= ~torch.isfinite(vec.norm(grads))

    def watch(self, losses: Tensor) -> None:
        """Remember whether any loss is not finite; a pass without a gradient of its own overflows as any other."""
        if self.scaled:
            self._overflow |= ~torch.isfinite(losses).all()

    @property
    def overflow(self) -> Tensor:
        """Whether a gradient or loss of this step was not finite, a 0-dim boolean on the device."""
        return self._overflow

    def forget(self) -> None:
        """Start a step, or give one up: no pass has overflowed."""
        if self.scaled:
            self._overflow.zero_()

    def finish(self, dropped: bool) -> None:
        """Adapt the scale after a step.

        Raises:
            DivergedError: If steps were dropped until no smaller scale could help: it is not the scale that overflows.
        """
        if not self.scaled:
            return
        self.forget()
        self._good_steps = 0 if dropped else self._good_steps + 1
        if dropped:
            self._scale *= 0.5
            if self._scale < _SMALLEST_SCALE:
                raise DivergedError(
                    "losses or gradients overflow in fp16 whatever the loss scale", "use bf16, or lower the lr"
                )
        elif self._good_steps == _GROWTH_INTERVAL:
            self._scale *= 2.0
            self._good_steps = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the scale and the number of good steps since it changed."""
        return {"scale": self._scale, "good_steps": self._good_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a stored scale."""
        self._scale = float(state["scale"])
        self._good_steps = state["good_steps"]

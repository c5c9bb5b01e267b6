"""Sharpness-aware training for free: hold the outputs near earlier ones in place of perturbing the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from sharpkit.core import vec
from sharpkit.core.parts import Idle
from sharpkit.core.rule import Rule
from sharpkit.core.slots import Auxiliary, Need, NewEntry
from sharpkit.core.step import Step
from sharpkit.core.task import Tree
from sharpkit.errors import UsageError, check_range

_RECORD = "saf.record"
_WRITTEN = "saf.epochs"
_WEIGHTS = "mesa.weights"
_BUFFERS = "mesa.buffers"


@dataclass(frozen=True)
class Distilled(Auxiliary):
    """lam tau^2 KL(softmax(z' / tau) || softmax(z / tau)) with outputs z and reference outputs z', after epoch `start`.

    Args:
        lam: Weight, 0 or more.
        tau: Temperature, above 0.
        start: The last epoch without it, counted from 0.
    """

    lam: float
    tau: float
    start: int
    needs: ClassVar[frozenset[Need]] = frozenset({"batch", "steps_per_epoch"})

    def __post_init__(self) -> None:
        check_range("lam", self.lam, 0)
        check_range("tau", self.tau, 0, open_low=True)
        check_range("start", self.start, -1)

    def losses(self, outputs: Tensor, reference: Tree) -> Tensor:
        """Return the loss of every sample, (B,), from logits (B, C); `reference` is (z', weights) with weights (B,).

        Raises:
            UsageError: If the outputs are not (B, C).
        """
        _check_logits(outputs)
        earlier, weights = reference
        target = functional.log_softmax(earlier.to(outputs.dtype) / self.tau, dim=1)
        own = functional.log_softmax(outputs / self.tau, dim=1)
        divergence = functional.kl_div(own, target, reduction="none", log_target=True).sum(1)
        return self.lam * self.tau**2 * weights.to(outputs.dtype) * divergence


@dataclass(frozen=True)
class Recorded(Distilled):
    """The reference is what was recorded for the sample `lag` epochs earlier; a sample without a record adds nothing.

    Args:
        lag: Epochs between the two, 1 or more.
    """

    lag: int = 3
    needs: ClassVar[frozenset[Need]] = frozenset({"batch", "indices", "samples", "steps_per_epoch"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("lag", self.lag, 1)

    def reference(self, whole: Step) -> Tree | None:
        """Return the recorded outputs (B, C) and which samples have some, (B,)."""
        epoch, rows = whole.clock.epoch, self._rows(whole)
        if epoch <= self.start or epoch < self.lag or _RECORD not in whole.shared:
            return None
        slot = (epoch - self.lag) % (self.lag + 1)
        written = whole.shared[_WRITTEN][slot, rows] == epoch - self.lag
        return whole.shared[_RECORD][slot, rows], written

    def see(self, whole: Step, outputs: Tensor) -> None:
        """Record this step's outputs."""
        _check_logits(outputs)
        if _RECORD not in whole.shared:
            assert whole.samples is not None
            size = (self.lag + 1, whole.samples)
            whole.shared[_RECORD] = outputs.new_zeros(*size, outputs.shape[1])
            whole.shared[_WRITTEN] = torch.full(size, -1, dtype=torch.int32, device=outputs.device)
        epoch = whole.clock.epoch
        place = epoch % (self.lag + 1), whole.gathered(self._rows(whole))
        whole.shared.write(_RECORD, place, whole.gathered(outputs.clone()))
        whole.shared.write(_WRITTEN, place, epoch)

    def _rows(self, whole: Step) -> Tensor:
        indices, count = whole.batch().indices, whole.samples
        assert indices is not None
        assert count is not None
        if indices.device.type == "cpu" and not 0 <= int(indices.min()) <= int(indices.max()) < count:
            raise UsageError(
                f"samples is {count}, and a batch has sample numbers from {int(indices.min())} to {int(indices.max())}",
                "number the training samples 0, 1, ..., samples - 1",
            )
        return indices.to(whole.params[0].device)


@dataclass(frozen=True)
class Taught(Distilled):
    """The reference is what a moving average of the weights says, in evaluation mode.

    Args:
        decay: Weight of the past in the average, in [0, 1].
    """

    decay: float = 0.9998
    aligned: ClassVar[Mapping[str, NewEntry | None]] = {
        _WEIGHTS: lambda p: p.detach().clone(),  # the average of a weight that did not move
        _BUFFERS: None,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("decay", self.decay, 0, 1)

    def reference(self, whole: Step) -> Tree | None:
        """Return the average model's outputs (B, C) and ones (B,)."""
        if _WEIGHTS not in whole.shared:
            whole.shared[_WEIGHTS], whole.shared[_BUFFERS] = vec.clone(whole.params), whole.buffers()
        if whole.clock.epoch <= self.start:
            return None
        outputs = whole.outputs_with(whole.shared[_WEIGHTS], whole.shared[_BUFFERS])
        _check_logits(outputs)
        return outputs, torch.ones_like(outputs[:, 0])

    def see(self, whole: Step, outputs: Tensor) -> None:
        """Refuse outputs that are no logits before anything moves."""
        _check_logits(outputs)

    def moved(self, whole: Step) -> None:
        """Move the average towards the new weights and buffers; counters are copied."""
        weights, buffers = whole.shared[_WEIGHTS], whole.shared[_BUFFERS]
        whole.shared[_WEIGHTS] = vec.lerp(weights, [p.detach() for p in whole.params], 1 - self.decay)
        whole.shared[_BUFFERS] = [
            torch.lerp(old, new, 1 - self.decay) if new.is_floating_point() else new
            for old, new in zip(buffers, whole.buffers(), strict=True)
        ]


def _check_logits(outputs: Tensor) -> None:
    if outputs.dim() != 2:
        raise UsageError(f"saf and mesa need logits (B, C), the outputs have shape {tuple(outputs.shape)}", "use sam")


def saf(lam: float = 0.3, tau: float = 5.0, lag: int = 3, start: int = 5) -> Rule:
    """Hold outputs near those of some epochs ago: descend L + lam tau^2 mean KL(softmax(z'/tau) || softmax(z/tau)).

    z' are the outputs recorded for the sample `lag` epochs earlier, in the clean pass. Du, Zhou, Feng, Tan, Zhou
    (2022), "Sharpness-Aware Training for Free", eq. (9) and Algorithm 1. Nothing is perturbed; joined with a recipe
    that perturbs, the sum is the loss of all its passes. The official code keeps its table by process and reads rows
    that were never written as uniform outputs; ours says which rows are valid, and leaves the others out. Cost: 1
    gradient a step, and lag + 1 outputs of every training sample in memory.

    Args:
        lam: Weight of the divergence; 0.3 in the authors' README.
        tau: Temperature.
        lag: Epochs between the two outputs, 1 or more.
        start: The last epoch without the divergence, counted from 0; -1 for none.

    Raises:
        UsageError: If a value is out of range.
    """
    return Rule("saf", gate=Idle(), auxiliary=Recorded(lam, tau, start, lag))


def mesa(lam: float = 0.3, tau: float = 5.0, decay: float = 0.9998, start: int = 5) -> Rule:
    """Hold outputs near those of averaged weights: descend L + lam tau^2 mean KL(softmax(z'/tau) || softmax(z/tau)).

    z' are the outputs of an exponential moving average of weights and buffers, in evaluation mode. Du, Zhou, Feng, Tan,
    Zhou (2022), "Sharpness-Aware Training for Free", section 3.3. Nothing is perturbed; joined with a recipe that
    perturbs, the sum is the loss of all its passes. Integer buffers are copied, not averaged. Cost: 1 gradient a step
    and a forward pass.

    Args:
        lam: Weight of the divergence; 0.3 in the authors' code, 0.8 in its ImageNet script.
        tau: Temperature.
        decay: Weight of the past in the average, in [0, 1]; 1 keeps the weights of the start.
        start: The last epoch without the divergence, counted from 0; -1 for none.

    Raises:
        UsageError: If a value is out of range.
    """
    return Rule("mesa", gate=Idle(), auxiliary=Taught(lam, tau, start, decay))

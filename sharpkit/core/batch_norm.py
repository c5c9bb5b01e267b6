"""Batch norm on several ranks: statistics of the samples on all of them, or those of each averaged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from sharpkit.core import vec
from sharpkit.core.comm import Comm
from sharpkit.core.shards import is_sharded
from sharpkit.errors import UsageError


def synchronise(model: nn.Module, comm: Comm) -> None:
    """Have every batch norm of a model normalise by mean and variance over the samples on all ranks.

    With n samples (and places) in all, mu = (1 / n) sum x and var = (1 / n) sum (x - mu)^2, channel by channel, and
    gradients flow through both; running variances are unbiased, as torch's are. torch.nn.SyncBatchNorm runs on
    accelerators only, and its gradient cannot be differentiated again. Parameters, buffers and names stay.

    Args:
        model: Changed in place.
        comm: The ranks.

    Raises:
        UsageError: If the model itself is a batch norm, has one of a kind of its own, or is sharded already.
    """
    if isinstance(model, _BatchNorm):
        raise UsageError("the model is a single batch norm, which cannot be exchanged", "put it into a Sequential")
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Synchronised) or not isinstance(child, _BatchNorm):
                continue
            if any(is_sharded(p) for p in child.parameters(recurse=False)):
                raise UsageError("the model is fully sharded already", "synchronise its batch norm before fully_shard")
            if type(child).forward is not _BatchNorm.forward:
                raise UsageError(
                    f"the batch norm {type(child).__name__} has a way of its own, which cannot be synchronised",
                    "leave --sync-bn out",
                )
            setattr(parent, name, Synchronised(child, comm))


def is_synchronised(model: nn.Module) -> bool:
    """Return whether a model has a batch norm that `synchronise` put there."""
    return any(isinstance(module, Synchronised) for module in model.modules())


class Synchronised(_BatchNorm):
    """A batch norm whose statistics are those of the samples on all ranks.

    Args:
        own: The layer that it takes the place of; parameters and buffers are shared.
        comm: The ranks.
    """

    def __init__(self, own: _BatchNorm, comm: Comm) -> None:
        super().__init__(own.num_features, own.eps, own.momentum, own.affine, own.track_running_stats, device="meta")
        self._parameters.update(own._parameters)  # pyright: ignore[reportPrivateUsage]
        self._buffers.update(own._buffers)  # pyright: ignore[reportPrivateUsage]
        self.training = own.training
        self._comm = [comm]  # in a list, so that a copy of the model keeps the same ranks

    def __deepcopy__(self, memo: dict[int, Any]) -> Synchronised:
        """Copy parameters and buffers; there is one set of ranks."""
        raise UsageError("a model with synchronised batch norm cannot be copied", "copy it before")

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002
        if input.dim() < 2:
            raise UsageError(f"batch norm was given shape {tuple(input.shape)}, allowed is (B, C, ...)", "add an axis")

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Return the normalised input, (B, C, ...)."""
        self._check_input_dim(input)
        if not self.training and self.running_mean is not None:
            return functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        axes = [0, *range(2, input.dim())]
        shape = [1, -1] + [1] * (input.dim() - 2)
        wide = input.to(torch.float64 if input.dtype == torch.float64 else torch.float32)
        here = wide.new_full((1,), input.numel() / input.shape[1])
        sums = _summed(torch.cat([wide.sum(axes), here]), self._comm[0])
        count = sums[-1]
        mean = sums[:-1] / count
        centred = wide - mean.view(shape)
        variance = _summed(centred.square().sum(axes), self._comm[0]) / count
        self._track(mean.detach(), variance.detach(), count.detach())
        scaled = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            scaled = scaled * self.weight.view(shape) + self.bias.view(shape)
        return scaled.to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        if not self.track_running_stats or self.running_mean is None:
            return
        assert self.num_batches_tracked is not None
        assert self.running_var is not None
        self.num_batches_tracked.add_(1)
        dtype = self.running_mean.dtype
        weight = self.num_batches_tracked.to(dtype).reciprocal() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(dtype), weight)
        unbiased = variance * (count / (count - 1).clamp(min=1))
        self.running_var.lerp_(unbiased.to(dtype), weight)


class _Sum(torch.autograd.Function):
    """The sum over the ranks; every rank's result depends on every rank's input, so gradients are summed too."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, comm: Comm) -> Tensor:
        """Return the sum."""
        ctx.comm = comm
        total = values.clone()
        comm.sum_([total])
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Return the gradient, differentiable again."""
        return _summed(grads[0].contiguous(), ctx.comm), None


def _summed(values: Tensor, comm: Comm) -> Tensor:
    return cast("Tensor", _Sum.apply(values, comm))  # pyright: ignore[reportUnknownMemberType]


def average_statistics_(model: nn.Module, comm: Comm, pair: Comm, parts: Sequence[int] | None = None) -> None:
    """Replace the running statistics of every batch norm by their means over the ranks, so that replicas stay alike.

    A rank whose part of a batch was empty has updated nothing: the mean is over the others, and counts of batches are
    those of the rank with the largest part.

    Args:
        model: Changed in place.
        comm: The ranks.
        pair: Two ranks that each have a `comm` of their own; both take the first one's means.
        parts: Samples per rank of the pass that updated the statistics; None where every rank had some.
    """
    if comm.size == 1:
        return
    statistics = list(_statistics(model))
    if not statistics:
        return
    updated = [True] * comm.size if parts is None or len(parts) != comm.size else [part > 0 for part in parts]
    if not updated[comm.rank]:
        vec.scale_(statistics, 0.0)
    comm.sum_(statistics)
    vec.scale_(statistics, 1 / sum(updated))
    if parts is not None and not all(updated):
        comm.broadcast_(list(_counts(model)), source=max(range(comm.size), key=lambda rank: parts[rank]))
    pair.broadcast_(statistics)


def _statistics(model: nn.Module) -> Iterator[Tensor]:
    for module in _tracking(model):
        yield from (b for b in (module.running_mean, module.running_var) if b is not None)


def _counts(model: nn.Module) -> Iterator[Tensor]:
    for module in _tracking(model):
        if module.num_batches_tracked is not None:
            yield module.num_batches_tracked


def _tracking(model: nn.Module) -> Iterator[_BatchNorm]:
    for module in model.modules():
        if isinstance(module, _BatchNorm) and not isinstance(module, Synchronised) and module.track_running_stats:
            yield module

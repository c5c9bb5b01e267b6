"""Functions of torch whose second derivative is missing or wrong, computed by primitives while they are differentiated.

Each substitute is the same function; only its derivatives are those of differentiable operations. Measured on a CPU
with torch 2.14: the double backward of `torch._weight_norm` is wrong along the first and the last dimension, and those
of `hardsigmoid`, `embedding_bag` and `multi_margin_loss` do not exist.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint

Function = Callable[..., Any]


class Substitutes(TorchFunctionMode):
    """Answers calls of functions without a right second derivative, also those that a model's own code makes.

    Args:
        active: Whether it does; it can be changed at any time.
    """

    def __init__(self, *, active: bool = True) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self.active = active

    def __torch_function__(
        self, func: Function, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Return what the function, or its substitute, returns."""
        substitute = _SUBSTITUTES.get(func) if self.active else None
        return (substitute or func)(*args, **(kwargs or {}))

    @contextmanager
    def suspended(self) -> Generator[None]:
        """Have torch compute everything while the context lasts."""
        before, self.active = self.active, False
        try:
            yield
        finally:
            self.active = before


@contextmanager
def differentiable_twice() -> Generator[Substitutes]:
    """Have second derivatives exist and be right while the context lasts, as far as torch lets us.

    Functions have their substitutes, attention uses the kernel that has a second derivative, and what `torch.compile`
    has compiled runs uncompiled, for compiled code is differentiable once.
    """
    with ExitStack() as stack:
        stack.enter_context(_double_attention())
        if "torch._dynamo" in sys.modules:  # where it is not imported nothing is compiled
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield stack.enter_context(Substitutes())


@contextmanager
def direct_checkpoints() -> Generator[None]:
    """Have `checkpoint(..., use_reentrant=True)` call its function and keep the activations while the context lasts.

    The function is the same, the memory is not saved. A reentrant checkpoint differentiates by all leaves at once, and
    neither second derivatives nor derivatives by chosen parameters can go through it.
    """
    held: Any = checkpoint
    before = held.CheckpointFunction
    held.CheckpointFunction = _Direct
    try:
        yield
    finally:
        held.CheckpointFunction = before


@contextmanager
def _double_attention() -> Generator[None]:
    """Compute attention by the kernel that has second derivatives, and no encoder layer by the fused one."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class _Direct:
    """Stands in for `torch.utils.checkpoint.CheckpointFunction`."""

    @staticmethod
    def apply(function: Function, preserve_rng_state: bool, *args: Any) -> Any:
        """Return what the function returns."""
        return function(*args)


def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """Return g v / |v|, the norm over all dimensions but `dim`, -1 for all (Salimans and Kingma, 2016)."""
    if dim == -1:
        return v * (g / v.square().sum().sqrt())
    axes = [axis for axis in range(v.dim()) if axis != dim]
    squares = v.square().sum(axes, keepdim=True) if axes else v.square()  # without axes torch sums over all
    return v * (g / squares.sqrt())


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:  # noqa: A002
    """Return min(max(x + 3, 0), 6) / 6."""
    return _placed(input, lambda x: functional.hardtanh(x + 3, 0.0, 6.0) / 6, inplace=inplace)


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:  # noqa: A002
    """Return x min(max(x + 3, 0), 6) / 6."""
    return _placed(input, lambda x: x * functional.hardtanh(x + 3, 0.0, 6.0) / 6, inplace=inplace)


def _placed(argument: Tensor, function: Callable[[Tensor], Tensor], *, inplace: bool) -> Tensor:
    """Return a function's result, in the place of its argument where that is asked for."""
    # Autograd keeps what the result was computed from, which must not be overwritten.
    return argument.copy_(function(argument.clone())) if inplace else function(argument)


def embedding_bag(
    input: Tensor,  # noqa: A002
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """Return sums, means or maxima of rows of a table over bags, as `torch.nn.functional.embedding_bag`.

    Gradients are dense, and not scaled by frequency: they are derivatives.
    """
    if mode not in _MODES or not isinstance(weight, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
        return functional.embedding_bag(input, weight, offsets, mode=mode)  # which says what is wrong
    with torch.no_grad():  # checks the arguments, scales rows to `max_norm`, and says where the maxima are
        functional.embedding_bag(
            input, weight, offsets, max_norm, norm_type, False, mode, False, per_sample_weights, include_last_offset,
            padding_idx,
        )  # fmt: skip
    indices = input.reshape(-1)
    if offsets is None:
        counts = indices.new_full((len(input),), input.shape[1] if len(input) else 0)
        offsets = torch.arange(len(input), device=input.device, dtype=input.dtype) * input.shape[1]
        include_last_offset = False
    else:
        ends = offsets if include_last_offset else torch.cat([offsets, offsets.new_tensor([len(indices)])])
        counts = torch.diff(ends)
    if mode == "max":
        with torch.no_grad():
            *_, sizes, best = torch.embedding_bag(
                weight.detach(), indices, offsets, False, 2, False, None, include_last_offset, padding_idx
            )
        found = weight.gather(0, best.clamp_min(0))
        return torch.where((sizes == 0)[:, None], torch.zeros_like(found), found)
    bag = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts, output_size=len(indices))
    rows = weight[indices]
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.reshape(-1, 1)
    if padding_idx is not None:
        used = indices != padding_idx % len(weight)
        rows = rows * used[:, None]
        counts = torch.zeros_like(counts).index_add(0, bag, used.to(counts))
    sums = weight.new_zeros(len(counts), weight.shape[1]).index_add(0, bag, rows)
    return sums / counts.clamp_min(1)[:, None] if mode == "mean" else sums


def multi_margin_loss(
    input: Tensor,  # noqa: A002
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return sum_{j != y} w_y max(0, margin - x_y + x_j)^p / C, as `torch.nn.functional.multi_margin_loss`."""
    with torch.no_grad():  # checks the arguments
        plain = functional.multi_margin_loss(input, target, p, margin, weight, size_average, reduce, reduction)
    scores, classes = (input[None], target.reshape(1)) if input.dim() < 2 else (input, target)
    excess = (margin - scores.gather(1, classes[:, None]) + scores).clamp_min(0) ** p
    if weight is not None:
        excess = excess * weight[classes][:, None]
    others = torch.ones_like(scores).scatter(1, classes[:, None], 0.0)
    losses = (excess * others).sum(1) / scores.shape[1]
    if plain.shape == target.shape and reduction == "none":
        return losses.reshape(target.shape)
    return losses.sum() if reduction == "sum" or size_average is False else losses.mean()


_MODES = ("sum", "mean", "max")

_torch: Any = torch
_core: Any = _torch._C._nn
_SUBSTITUTES: dict[Any, Function] = {
    _torch._weight_norm: weight_norm,
    functional.hardsigmoid: hardsigmoid,
    _core.hardsigmoid: hardsigmoid,
    functional.hardswish: hardswish,
    _core.hardswish: hardswish,
    functional.embedding_bag: embedding_bag,
    functional.multi_margin_loss: multi_margin_loss,
}

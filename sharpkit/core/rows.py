"""Weight gradients of some outputs of a layer only: those of the others are not computed."""

# The calls are intercepted where torch itself says they can be, and the backward of a convolution is an operator of
# torch that has no annotated name.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class SomeRows(TorchFunctionMode):
    """Within it, convolutions and linear layers give their weight's gradient on chosen rows and zeros on the others.

    A row of a weight is what makes one output: a slice along its first axis. The outputs, the gradient that is passed
    on and that of the bias are the usual ones. Calls of other kinds, in groups, or under autocast are left as they are,
    so that their weights have the whole gradient.

    Args:
        rows: Of some weights, by `id`, the numbers (r,) of the rows wanted.
    """

    def __init__(self, rows: Mapping[int, Tensor]) -> None:
        super().__init__()
        self._rows = rows

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a call of torch, in our way where it is one of these."""
        given = kwargs or {}
        weight: Any = next(iter(args[1:]), None)
        if func not in _CALLS or id(weight) not in self._rows or torch.is_autocast_enabled(weight.device.type):
            return func(*args, **given)
        result = _CALLS[func](self._rows[id(weight)], *args, **given)
        return func(*args, **given) if result is None else result


def can_see_into(model: nn.Module) -> bool:
    """Return whether the model's calls reach us: those of a compiled module do not."""
    return not any(
        hasattr(m, "_orig_mod") or getattr(m, "_compiled_call_impl", None) is not None for m in model.modules()
    )


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, rows)
        return functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, rows = ctx.saved_tensors
        slope = slopes[0]
        flat = slope.reshape(-1, slope.shape[-1])
        passed = slope @ weight if ctx.needs_input_grad[0] else None
        own = torch.zeros_like(weight)
        own[rows] = flat[:, rows].T @ x.reshape(-1, x.shape[-1])
        return passed, own, flat.sum(0) if ctx.needs_input_grad[2] else None, None


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor, geometry: tuple[list[int], ...]
    ) -> Tensor:
        ctx.save_for_backward(x, weight, rows)
        ctx.geometry, ctx.outputs = geometry, None if bias is None else [bias.shape[0]]
        stride, padding, dilation = geometry
        return functional.conv2d(x, weight, bias, stride, padding, dilation)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, rows = ctx.saved_tensors
        slope, geometry = slopes[0], (*ctx.geometry, False, [0, 0], 1)
        wanted = [ctx.needs_input_grad[0], False, ctx.needs_input_grad[2]]
        backward = torch.ops.aten.convolution_backward
        passed, _, bias = backward(slope, x, weight, ctx.outputs, *geometry, wanted)
        own = torch.zeros_like(weight)
        own[rows] = backward(slope[:, rows], x, weight[rows], None, *geometry, [False, True, False])[1]
        return passed, own, bias, None, None


def _linear(rows: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return _Linear.apply(x, weight, bias, rows)


def _convolution(
    rows: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor | None:
    if groups != 1 or isinstance(padding, str) or x.dim() != 4:
        return None
    geometry = tuple([n, n] if isinstance(n, int) else list(n) for n in (stride, padding, dilation))
    return _Convolution.apply(x, weight, bias, rows, geometry)


_CALLS: dict[Any, Callable[..., Tensor | None]] = {functional.linear: _linear, functional.conv2d: _convolution}

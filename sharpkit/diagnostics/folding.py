"""Batch norm in evaluation mode, folded into the convolution or linear layer before it, as a function of both.

With stored statistics mu, s^2 the pair computes gamma (W x + b - mu) / s + beta = (gamma W / s) x + (gamma (b - mu) /
s + beta). Evaluated this way the loss is the same function of W, b, gamma and beta, so its derivatives by them are
the same too; only the passes over the activations are saved. Nothing is reparametrised.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from sharpkit.core.task import Batch, Task

_Layer = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear
_Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
_CONVOLVE: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Conv1d: functional.conv1d,
    nn.Conv2d: functional.conv2d,
    nn.Conv3d: functional.conv3d,
}
_AGREE = 1e-4
"""Largest relative difference of outputs that is rounding; a pair that may not be folded differs by far more."""


@contextmanager
def folded(model: nn.Module, task: Task, batch: Batch) -> Generator[int]:
    """Fold what can be folded while the context lasts, and give the number of pairs.

    Pairs are found by running the model: a batch norm whose input is the very tensor that a layer returned. Whether
    that tensor has another reader as well cannot be seen there, so outputs are compared afterwards, and if they
    differ nothing is folded.

    Args:
        model: In evaluation mode.
        task: Its outputs.
        batch: A few samples to look with.
    """
    with torch.no_grad():
        before, pairs = _pairs(model, task, batch)
        patched = _patch(pairs)
        if pairs and not _same(before, task.outputs(batch)):
            _restore(patched)
            pairs, patched = [], []
    try:
        yield len(pairs)
    finally:
        _restore(patched)


def _pairs(model: nn.Module, task: Task, batch: Batch) -> tuple[Tensor, list[tuple[_Layer, _Norm]]]:
    """Return the outputs, and the pairs of which each member is called once."""
    made: dict[int, tuple[nn.Module, Tensor]] = {}
    calls: dict[nn.Module, int] = {}
    found: list[tuple[_Layer, _Norm]] = []

    def after_layer(module: nn.Module, _: Any, output: Tensor) -> None:
        calls[module] = calls.get(module, 0) + 1
        made[id(output)] = (module, output)  # the tensor is held, so that its id stays its own

    def before_norm(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls[module] = calls.get(module, 0) + 1
        if inputs and id(inputs[0]) in made:
            found.append(cast("tuple[_Layer, _Norm]", (made[id(inputs[0])][0], module)))

    handles: list[Any] = []
    for module in model.modules():
        if type(module) in _CONVOLVE or type(module) is nn.Linear:
            handles.append(module.register_forward_hook(after_layer))
        elif type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d) and _stored(module):
            handles.append(module.register_forward_pre_hook(before_norm))
    try:
        outputs = task.outputs(batch)
    finally:
        for handle in handles:
            handle.remove()
    return outputs, [pair for pair in found if calls[pair[0]] == 1 and calls[pair[1]] == 1 and _foldable(*pair)]


def _stored(module: nn.Module) -> bool:
    return not module.training and getattr(module, "running_mean", None) is not None


def _foldable(layer: _Layer, norm: _Norm) -> bool:
    """Return whether the layer is plain: zero padding, no hooks, channels where the norm has them."""
    plain = all(not _hooks(m) and "forward" not in vars(m) for m in (layer, norm))
    channels = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    padding = "zeros" if isinstance(layer, nn.Linear) else layer.padding_mode
    return plain and padding == "zeros" and channels == norm.num_features


def _hooks(module: nn.Module) -> bool:
    return bool(vars(module)["_forward_hooks"] or vars(module)["_forward_pre_hooks"])


def _patch(pairs: list[tuple[_Layer, _Norm]]) -> list[nn.Module]:
    patched: list[nn.Module] = []
    for layer, norm in pairs:
        vars(layer)["forward"] = _fused(layer, norm)
        vars(norm)["forward"] = _pass
        patched += [layer, norm]
    return patched


def _restore(patched: list[nn.Module]) -> None:
    for module in patched:
        del vars(module)["forward"]


def _pass(inputs: Tensor) -> Tensor:
    return inputs


def _fused(layer: _Layer, norm: _Norm) -> Callable[[Tensor], Tensor]:
    def forward(inputs: Tensor) -> Tensor:
        mean, variance = cast("Tensor", norm.running_mean), cast("Tensor", norm.running_var)
        scale = torch.rsqrt(variance + norm.eps)
        if norm.affine:
            scale = scale * norm.weight
        weight = layer.weight * scale.reshape(-1, *(1 for _ in layer.weight.shape[1:]))
        shift = -mean * scale if layer.bias is None else (layer.bias - mean) * scale
        bias = shift + norm.bias if norm.affine else shift
        if isinstance(layer, nn.Linear):
            return functional.linear(inputs, weight, bias)
        convolve = _CONVOLVE[type(layer)]
        return convolve(inputs, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)

    return forward


def _same(before: Tensor, after: Tensor) -> bool:
    return bool((before - after).abs().max() <= _AGREE * before.abs().max())

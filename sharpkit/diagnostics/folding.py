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

Layer = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear
Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
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
        before, found = pairs_of(model, task, batch)
        patched = [m for layer, norm in found for m in patch(layer, norm, _fused(layer, norm), _pass)]
        if found and not same(before, task.outputs(batch)):
            unpatch(patched)
            found, patched = [], []
    try:
        yield len(found)
    finally:
        unpatch(patched)


def pairs_of(model: nn.Module, task: Task, batch: Batch) -> tuple[Tensor, list[tuple[Layer, Norm]]]:
    """Return the outputs, and the pairs of which each member is called once."""
    made: dict[int, tuple[nn.Module, Tensor]] = {}
    calls: dict[nn.Module, int] = {}
    found: list[tuple[Layer, Norm]] = []

    def after_layer(module: nn.Module, _: Any, output: Tensor) -> None:
        calls[module] = calls.get(module, 0) + 1
        made[id(output)] = (module, output)  # the tensor is held, so that its id stays its own

    def before_norm(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls[module] = calls.get(module, 0) + 1
        if inputs and id(inputs[0]) in made:
            found.append(cast("tuple[Layer, Norm]", (made[id(inputs[0])][0], module)))

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


def _foldable(layer: Layer, norm: Norm) -> bool:
    """Return whether the layer is plain: zero padding, no hooks, channels where the norm has them."""
    plain = all(not _hooks(m) and "forward" not in vars(m) for m in (layer, norm))
    channels = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    padding = "zeros" if isinstance(layer, nn.Linear) else layer.padding_mode
    return plain and padding == "zeros" and channels == norm.num_features


def _hooks(module: nn.Module) -> bool:
    return bool(vars(module)["_forward_hooks"] or vars(module)["_forward_pre_hooks"])


def patch(
    layer: Layer, norm: Norm, layer_forward: Callable[[Tensor], Tensor], norm_forward: Callable[[Tensor], Tensor]
) -> list[nn.Module]:
    """Have a layer and a norm compute something else, until `unpatch`."""
    vars(layer)["forward"], vars(norm)["forward"] = layer_forward, norm_forward
    return [layer, norm]


def unpatch(patched: list[nn.Module]) -> None:
    """Give modules their own computation back."""
    for module in patched:
        del vars(module)["forward"]


def _pass(inputs: Tensor) -> Tensor:
    return inputs


def _fused(layer: Layer, norm: Norm) -> Callable[[Tensor], Tensor]:
    return lambda inputs: apply(layer, inputs, *fused(layer, norm))


def fused(layer: Layer, norm: Norm) -> tuple[Tensor, Tensor]:
    """Return the weight and bias that do what layer and norm do one after the other."""
    mean, variance = cast("Tensor", norm.running_mean), cast("Tensor", norm.running_var)
    scale = torch.rsqrt(variance + norm.eps)
    if norm.affine:
        scale = scale * norm.weight
    weight = layer.weight * scale.reshape(-1, *(1 for _ in layer.weight.shape[1:]))
    shift = -mean * scale if layer.bias is None else (layer.bias - mean) * scale
    return weight, shift + norm.bias if norm.affine else shift


def apply(layer: Layer, inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return what a layer does to its inputs with another weight and bias."""
    if isinstance(layer, nn.Linear):
        return functional.linear(inputs, weight, bias)
    convolve = _CONVOLVE[type(layer)]
    return convolve(inputs, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)


def same(before: Tensor, after: Tensor) -> bool:
    """Return whether outputs differ by rounding only."""
    return bool((before - after).abs().max() <= _AGREE * before.abs().max())

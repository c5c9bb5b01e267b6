"""Squared gradients of single samples, layer by layer, from one forward and one backward pass over all of them.

The gradient of sample i by a linear layer's weight is d_i a_i' with its input a and the derivative d of the summed
loss by its output, so that its square needs no further pass; the same holds for convolutions, affine norms and
embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from sharpkit.core.task import Batch, Task, tensors
from sharpkit.core.vec import Vec

_SAMPLES, _TOKENS = 128, 2**12  # of a pass, which holds what every layer sees
_ENTRIES = 2**18  # of per-sample gradients that are held at a time: what a cache holds


class NotLayerwiseError(Exception):
    """The model's parameters are used in another way than by the layers known here."""


def layerwise(model: nn.Module, task: Task, params: Sequence[Tensor], batch: Batch) -> Vec:
    """Return the sum over samples of the squared gradient of a sample's loss, aligned with the parameters.

    It holds only where samples do not depend on each other and every parameter is used by its layer's call alone,
    which cannot be seen from here: the caller checks the result on a few samples.

    Raises:
        NotLayerwiseError: If a parameter belongs to no layer known here, or a layer is not called exactly once.
    """
    layers = _layers_of(model, params)
    total = {id(p): torch.zeros_like(p, requires_grad=False) for p in params}
    texts = [t.shape[1] for t in tensors(batch.inputs) if t.dim() == 2 and not t.is_floating_point()]
    count = min(_SAMPLES, max(1, _TOKENS // max(1, *texts, 1)))
    for start in range(0, batch.size, count):
        piece = batch.select_range(start, min(start + count, batch.size))
        for layer, seen, slope in _passes(layers, task, piece):
            for p, squared in _RULES[type(layer)](layer, seen, slope):
                if id(p) in total and p.requires_grad:
                    total[id(p)] += squared.view_as(p)
    return [total[id(p)] for p in params]


def _layers_of(model: nn.Module, params: Sequence[Tensor]) -> list[nn.Module]:
    """Return the layers that hold the parameters, each parameter in one of them."""
    waiting = {id(p) for p in params if p.requires_grad}
    layers: list[nn.Module] = []
    for module in model.modules():
        own = [p for p in module.parameters(recurse=False) if p.requires_grad]
        if not own:
            continue
        if type(module) not in _RULES or any(id(p) not in waiting for p in own) or not _plain(module):
            raise NotLayerwiseError(type(module).__name__)
        waiting -= {id(p) for p in own}
        layers.append(module)
    if waiting:
        raise NotLayerwiseError("parameters outside the model")
    return layers


def _plain(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        return module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    if isinstance(module, nn.Embedding):
        return module.max_norm is None and not module.scale_grad_by_freq
    return not isinstance(module, nn.modules.batchnorm._BatchNorm) or module.running_mean is not None  # pyright: ignore[reportPrivateUsage]


def _passes(layers: Sequence[nn.Module], task: Task, batch: Batch) -> list[tuple[nn.Module, Tensor, Tensor]]:
    """Return every layer with its input and the derivative of the summed loss by its output."""
    calls: list[tuple[nn.Module, Tensor, Any]] = []

    def note(layer: nn.Module, given: tuple[Any, ...], out: Any) -> Tensor:
        if len(given) != 1 or not isinstance(out, Tensor) or not out.requires_grad:
            raise NotLayerwiseError(type(layer).__name__)
        seen: Tensor = given[0].detach()
        if isinstance(layer, nn.Embedding) and len(out) == 1:  # of the places in a text, looked up once for all samples
            seen, out = (t.expand(batch.size, *t.shape[1:]) for t in (seen, out))
        # The edge, because a later in-place operation would make the tensor itself mean something else.
        calls.append((layer, seen, torch.autograd.graph.get_gradient_edge(out)))
        return out

    hooks = [layer.register_forward_hook(note) for layer in layers]
    try:
        with torch.enable_grad():
            loss = task.losses(task.outputs(batch), batch).sum()
    finally:
        for hook in hooks:
            hook.remove()
    if len(calls) != len(layers) or {id(layer) for layer, _, _ in calls} != {id(layer) for layer in layers}:
        raise NotLayerwiseError("a layer is not called exactly once")
    slopes = torch.autograd.grad(loss, [edge for _, _, edge in calls])
    return [(layer, seen, slope) for (layer, seen, _), slope in zip(calls, slopes, strict=True)]


Squared = list[tuple[Tensor, Tensor]]


def _linear(layer: nn.Module, a: Tensor, d: Tensor) -> Squared:
    layer = cast("nn.Linear", layer)
    if a.dim() == 2:
        return _with_bias(layer.weight, d.square().T @ a.square(), layer.bias, d[..., None])
    a, d = a.flatten(1, -2), d.flatten(1, -2).transpose(1, 2)
    return _with_bias(layer.weight, _squared_products(d, a), layer.bias, d)


def _convolution(layer: nn.Module, a: Tensor, d: Tensor) -> Squared:
    layer = cast("nn.Conv2d", layer)
    height, width = d.shape[2:]
    squared = _squared_products(d.flatten(2), _patches(a, layer, height, width))
    by_place = squared.view(layer.out_channels, *layer.kernel_size, layer.in_channels)
    return _with_bias(layer.weight, by_place.permute(0, 3, 1, 2), layer.bias, d.flatten(2))


def _patches(a: Tensor, layer: nn.Conv2d, height: int, width: int) -> Tensor:
    """Return what every output place sees, (B, height width, kernel height kernel width C).

    With the channels last a row of the kernel is contiguous, which makes this several times faster than unfold.
    """
    down, across = cast("tuple[int, int]", layer.padding)
    padded = functional.pad(a.permute(0, 2, 3, 1), (0, 0, across, across, down, down)).contiguous()
    sample, row, column, channel = padded.stride()
    (sy, sx), (dy, dx) = layer.stride, layer.dilation
    shape = (len(a), height, width, *layer.kernel_size, layer.in_channels)
    strides = (sample, row * sy, column * sx, row * dy, column * dx, channel)
    return padded.as_strided(shape, strides).reshape(len(a), height * width, -1)


def _batch_norm(layer: nn.Module, a: Tensor, d: Tensor) -> Squared:
    norm = cast("nn.BatchNorm2d", layer)
    unit = functional.batch_norm(a, norm.running_mean, norm.running_var, None, None, False, 0.0, norm.eps)
    return _scale_and_shift(norm, unit.reshape(*a.shape[:2], -1), d.reshape(*a.shape[:2], -1))


def _group_norm(layer: nn.Module, a: Tensor, d: Tensor) -> Squared:
    norm = cast("nn.GroupNorm", layer)
    unit = functional.group_norm(a, norm.num_groups, None, None, norm.eps)
    return _scale_and_shift(norm, unit.reshape(*a.shape[:2], -1), d.reshape(*a.shape[:2], -1))


def _layer_norm(layer: nn.Module, a: Tensor, d: Tensor) -> Squared:
    norm = cast("nn.LayerNorm", layer)
    unit = functional.layer_norm(a, norm.normalized_shape, None, None, norm.eps)
    size = norm.weight.numel()
    by_entry = [t.reshape(t.shape[0], -1, size).transpose(1, 2) for t in (unit, d)]
    return _scale_and_shift(norm, *by_entry)


def _embedding(layer: nn.Module, a: Tensor, d: Tensor) -> Squared:
    """Square what the places of a sample with the same number add up to."""
    embedding = cast("nn.Embedding", layer)
    size = embedding.num_embeddings
    samples = torch.arange(len(a), device=a.device).view(-1, *[1] * (a.dim() - 1))
    unique = cast("Callable[..., tuple[Tensor, Tensor]]", torch.unique)
    keys, which = unique(samples * size + a, return_inverse=True)
    sums = d.new_zeros(len(keys), embedding.embedding_dim)
    sums.index_add_(0, which.flatten(), d.flatten(0, -2))
    rows = torch.remainder(keys, size)
    if embedding.padding_idx is not None:
        sums[rows == embedding.padding_idx] = 0
    squared = torch.zeros_like(embedding.weight, requires_grad=False)
    return [(embedding.weight, squared.index_add_(0, rows, sums.square_()))]


def _scale_and_shift(norm: nn.Module, unit: Tensor, d: Tensor) -> Squared:
    """Return the squares for y = weight * unit + bias, with (B, C, places) of unit and slope."""
    weight, bias = cast("Tensor", norm.weight), cast("Tensor | None", norm.bias)
    return _with_bias(weight, (unit * d).sum(2).square().sum(0), bias, d)


def _with_bias(weight: Tensor, squared: Tensor, bias: Tensor | None, d: Tensor) -> Squared:
    """Add the bias's squares from the slope (B, C, places)."""
    pairs = [(weight, squared)]
    return pairs if bias is None else [*pairs, (bias, d.sum(2).square().sum(0))]


def _squared_products(left: Tensor, right: Tensor) -> Tensor:
    """Return sum_i (left_i right_i)^2 of (B, m, places) and (B, places, n), by parts that stay in the cache."""
    rows, columns = left.shape[1], right.shape[2]
    total = left.new_zeros(rows, columns)
    height = min(rows, max(1, _ENTRIES // columns))
    chunk = max(1, _ENTRIES // (height * columns))
    for top in range(0, rows, height):
        part, lines = total[top : top + height], left[:, top : top + height]
        for start in range(0, left.shape[0], chunk):
            product = torch.bmm(lines[start : start + chunk], right[start : start + chunk])
            if len(product) == 1:
                part.addcmul_(product[0], product[0])
            else:
                part += product.square_().sum(0)
    return total


_RULES: dict[type[nn.Module], Callable[[nn.Module, Tensor, Tensor], Squared]] = {
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
    nn.Embedding: _embedding,
}

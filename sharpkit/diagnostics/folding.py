"""Batch norm in evaluation mode, folded into the convolution or linear layer before it, as a function of both.

With stored statistics mu, s^2 the pair computes gamma (W x + b - mu) / s + beta = (gamma W / s) x + (gamma (b - mu) /
s + beta). Evaluated this way the loss is the same function of W, b, gamma and beta, so its derivatives by them are
the same too; only the passes over the activations are saved. Nothing is reparametrised.

That holds where nothing but the batch norm reads what the layer returned: any other reader would see another tensor.
W, b, gamma and beta may have other readers, such as layers that share them and penalties, which read what they did.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from sharpkit.core.task import Batch, Task
from sharpkit.diagnostics.agreement import agree, seen
from sharpkit.diagnostics.readers import Readers, ToHost, kept

Layer = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear
Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
Forward = Callable[[Tensor], Tensor]
_CONVOLVE: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Conv1d: functional.conv1d,
    nn.Conv2d: functional.conv2d,
    nn.Conv3d: functional.conv3d,
}


@dataclass(frozen=True)
class Pairs:
    """Layers with the batch norm after each.

    Args:
        found: Those that may be folded.
        refused: Those that may not, with the reason for each.
    """

    found: list[tuple[Layer, Norm]]
    refused: tuple[str, ...] = ()

    @property
    def how(self) -> str:
        """What is folded and what is not, in words; empty where there is nothing to say."""
        words = [f"{len(self.found)} batch norms folded"] if self.found else []
        return ", ".join([*words, *(f"not folded: {why}" for why in self.refused)])


class Folding:
    """Pairs that are folded while `folded` lasts.

    Args:
        pairs: Of the model.
    """

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs
        self._active = False

    def use(self, active: bool) -> None:
        """Fold all pairs, or have every module compute what it is."""
        if active == self._active:
            return
        self._active = active
        for layer, norm in self.pairs.found:
            if active:
                patch(layer, norm, _fused(layer, norm), _pass)
            else:
                unpatch((layer, norm))

    @contextmanager
    def suspended(self) -> Generator[None]:
        """Have every module compute what it is while the context lasts."""
        before = self._active
        self.use(active=False)
        try:
            yield
        finally:
            self.use(active=before)


NOTHING = Folding(Pairs([]))
"""Of a model of which nothing is folded."""


@contextmanager
def folded(model: nn.Module, task: Task, batch: Batch) -> Generator[Folding]:
    """Fold what can be folded while the context lasts.

    Pairs are found by running the model: see `pairs_of`. Then everything is compared with the model as it is, also at
    other weights and by derivatives; if anything differs by more than rounding, nothing is folded.

    Args:
        model: In evaluation mode.
        task: Its outputs and losses.
        batch: A few samples to look with.
    """
    folding = Folding(pairs_of(model, task, batch))
    try:
        if folding.pairs.found:
            plain = seen(model, task, batch)
            folding.use(active=True)
            if not agree(plain, seen(model, task, batch)):
                folding.use(active=False)
                folding = Folding(differing(folding.pairs))
        yield folding
    finally:
        folding.use(active=False)


def differing(pairs: Pairs) -> Pairs:
    """Return that nothing is folded, for it made a difference."""
    return Pairs([], (*pairs.refused, f"{len(pairs.found)} batch norms, for outputs or derivatives differ"))


def pairs_of(model: nn.Module, task: Task, batch: Batch) -> Pairs:
    """Return the pairs that may be folded, found by one pass of the model and its losses.

    A pair is a batch norm whose input is the very tensor that a layer returned. It may be folded if each member is
    called once, nothing else reads, changes or keeps that tensor, be it recorded by autograd or not, and no hook would
    see it.
    """
    look = _Look()
    names = {module: name for name, module in cast("Any", model).named_modules()}
    patched: list[nn.Module] = []
    try:
        for module in names:
            if "forward" in vars(module):
                continue
            if type(module) in _CONVOLVE or type(module) is nn.Linear:
                vars(module)["forward"] = look.layer(module)
                patched.append(module)
            elif type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d) and _stored(module):
                vars(module)["forward"] = look.norm(module)
                patched.append(module)
        with look.readers, ToHost(look.readers):
            outputs = task.outputs(batch)
            losses = task.losses(outputs, batch)
        del outputs, losses
    finally:
        unpatch(patched)
    reasons = look.reasons()
    refused = tuple(f"{names[norm] or type(norm).__name__}, for {why}" for (_, norm), why in reasons if why)
    return Pairs([pair for pair, why in reasons if why is None], refused)


class _Look:
    """What is seen of layers and batch norms in one pass."""

    def __init__(self) -> None:
        self.readers = Readers()
        self._made: dict[int, tuple[Layer, Tensor]] = {}  # the tensors are held, so that an id stays its own
        self._calls: dict[nn.Module, int] = {}
        self._pairs: list[tuple[tuple[Layer, Norm], Tensor]] = []

    def layer(self, module: nn.Module) -> Forward:
        """Return the computation of a layer, whose result is watched."""

        def forward(input: Tensor) -> Tensor:  # noqa: A002
            self._calls[module] = self._calls.get(module, 0) + 1
            output = own(module, input)
            self._made[id(output)] = cast("Layer", module), output
            self.readers.watch(output)
            return output

        return forward

    def norm(self, module: nn.Module) -> Forward:
        """Return the computation of a batch norm, which may read what a layer returned."""

        def forward(input: Tensor) -> Tensor:  # noqa: A002
            self._calls[module] = self._calls.get(module, 0) + 1
            if id(input) not in self._made:
                return own(module, input)
            self._pairs.append(((self._made[id(input)][0], cast("Norm", module)), input))
            with self.readers.not_noticing(input):
                return own(module, input)

        return forward

    def reasons(self) -> list[tuple[tuple[Layer, Norm], str | None]]:
        """Return every pair, and why it may not be folded, or None."""
        found = [pair for pair, _ in self._pairs]
        reasons = [_not_plain(*pair) for pair in found]
        read = [self.readers.is_read(tensor) for _, tensor in self._pairs]
        tensors = [tensor for _, tensor in self._pairs]
        self._made, self._pairs, self.readers = {}, [], Readers()
        held = kept(tensors)
        for k, (layer, norm) in enumerate(found):
            if self._calls[layer] > 1 or self._calls[norm] > 1:
                reasons[k] = "it or the layer before it is called more than once"
            elif read[k] or held[k]:
                reasons[k] = reasons[k] or "its input has another reader"
        return list(zip(found, reasons, strict=True))


def _stored(module: nn.Module) -> bool:
    return not module.training and getattr(module, "running_mean", None) is not None


def _not_plain(layer: Layer, norm: Norm) -> str | None:
    """Return why a pair may not be folded whatever reads its tensors: padding, hooks, channels elsewhere."""
    if not isinstance(layer, nn.Linear) and layer.padding_mode != "zeros":
        return f"the layer before it pads by {layer.padding_mode}"
    if any(_hooks(m) for m in (layer, norm)):
        return "it or the layer before it has hooks"
    channels = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    return None if channels == norm.num_features else "it has another number of channels than the layer before it"


def _hooks(module: nn.Module) -> bool:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(vars(module)[kind] for kind in kinds)


def patch(layer: Layer, norm: Norm, layer_forward: Forward, norm_forward: Forward) -> list[nn.Module]:
    """Have a layer and a norm compute something else, until `unpatch`."""
    vars(layer)["forward"], vars(norm)["forward"] = layer_forward, norm_forward
    return [layer, norm]


def unpatch(patched: Sequence[nn.Module]) -> None:
    """Give modules their own computation back."""
    for module in patched:
        del vars(module)["forward"]


def own(module: nn.Module, inputs: Tensor) -> Tensor:
    """Return what a module computes by its class."""
    return cast("Any", type(module)).forward(module, inputs)


def _pass(input: Tensor) -> Tensor:  # noqa: A002
    return input


def _fused(layer: Layer, norm: Norm) -> Forward:
    def forward(input: Tensor) -> Tensor:  # noqa: A002
        return apply(layer, input, *fused(layer, norm))

    return forward


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

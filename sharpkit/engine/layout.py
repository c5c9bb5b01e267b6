"""`--channels-last`: the memory format of images, (N, C, H, W) stored as it is written or with the channels last."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from sharpkit.core.precision import Mode, Precision
from sharpkit.core.task import Batch, Supervised
from sharpkit.core.undisturbed import undisturbed
from sharpkit.errors import UsageError

_CLEARLY_FASTER = 0.85
_PIXELS = 16 * 16  # of smaller images either format is fast, and a measurement would be mostly noise
_SAMPLES = 32
_MOST_ROUNDS, _SECONDS = 5, 1.0


@dataclass(frozen=True)
class Formatted(Supervised):
    """A supervised task that gives its model images in one memory format, whatever made them.

    Activations take theirs from images and weights, and an augmentation may leave images in either.
    """

    form: torch.memory_format

    def outputs(self, batch: Batch) -> Tensor:
        """Return model(inputs)."""
        return self.model(formed(batch.inputs, self.form))


def formed(images: Tensor, form: torch.memory_format) -> Tensor:
    """Return images (B, C, H, W) in a memory format; of one channel too, where torch takes either for both."""
    _, channels, height, width = images.shape
    usual = torch.contiguous_format
    if form is not torch.channels_last:
        return images if images.stride()[1:] == (height * width, width, 1) else images.clone(memory_format=usual)
    if images.stride()[1:] == (1, width * channels, channels):
        return images
    # Not clone(memory_format=channels_last), which vmap does not know.
    return images.permute(0, 2, 3, 1).clone(memory_format=usual).permute(0, 3, 1, 2)


def pick_layout(
    wanted: str, task: Supervised, batch: Batch, precision: Mode, *, deterministic: bool = False
) -> tuple[Supervised, str, list[str]]:
    """Give images and convolutions their memory format; return the task, `on` or `off`, and how it was chosen.

    Sums are formed in another order in the other format, so a run's numbers depend on the choice in their last bits.
    `auto` on a CPU times training passes of a few samples in both, in turn, and prefers the usual one unless the other
    is clearly faster; small images stay as they are. On a GPU convolutions in half precision need it to use the tensor
    cores.

    Args:
        wanted: `auto`, `on` or `off`.
        task: Its model is a module on the batch's device.
        batch: One training batch.
        precision: Of the passes.
        deterministic: Whether `auto` must not measure.

    Raises:
        UsageError: If it is `on` and the model has no two-dimensional convolution.
    """
    model = cast("nn.Module", task.model)
    if batch.inputs.dim() != 4 or not any(isinstance(module, nn.Conv2d) for module in model.modules()):
        if wanted == "on":
            raise UsageError("channels-last is on, and the model has no convolution of images", "leave it out")
        return task, "off", []
    answer, told = wanted, ["channels-last: on, as given"] if wanted == "on" else []
    if wanted == "auto":
        answer, told = _chosen(task, batch, precision, deterministic)
    form = torch.channels_last if answer == "on" else torch.contiguous_format
    _store(model, form)
    return Formatted(task.model, task.loss, form), answer, told


def _chosen(task: Supervised, batch: Batch, precision: Mode, deterministic: bool) -> tuple[str, list[str]]:
    device: torch.device = batch.inputs.device
    if device.type == "cuda" and precision != "off":
        return "on", ["channels-last: on, for convolutions in half precision on a GPU"]
    if device.type != "cpu" or deterministic or batch.inputs.shape[2] * batch.inputs.shape[3] < _PIXELS:
        return "off", []
    usual, last = _measured(task, batch.select_range(0, min(_SAMPLES, batch.size)), precision)
    answer = "on" if last < _CLEARLY_FASTER * usual else "off"
    return answer, [f"channels-last: {answer} (measured {1e3 * last:.1f} ms with, {1e3 * usual:.1f} ms without)"]


def _measured(task: Supervised, batch: Batch, precision: Mode) -> tuple[float, float]:
    """Return the shortest times of a pass in the usual format and with the channels last."""
    model = cast("nn.Module", task.model)
    times: dict[torch.memory_format, list[float]] = {torch.contiguous_format: [], torch.channels_last: []}
    mode = Precision(precision, batch.inputs.device)
    with undisturbed(model, batch.inputs.device):
        started = time.perf_counter()
        for number in range(_MOST_ROUNDS + 1):
            for form, taken in times.items():
                _store(model, form)
                tried = Formatted(task.model, task.loss, form)
                start = time.perf_counter()
                with mode.autocast():
                    loss = tried.losses(tried.outputs(batch), batch).mean()
                loss.backward()  # pyright: ignore[reportUnknownMemberType]
                if number:
                    taken.append(time.perf_counter() - start)
                model.zero_grad()
            if number >= 2 and time.perf_counter() - started > _SECONDS:
                break
    usual, last = times.values()
    return min(usual), min(last)


def _store(model: nn.Module, form: torch.memory_format) -> None:
    model.to(memory_format=form)  # pyright: ignore[reportCallIssue]

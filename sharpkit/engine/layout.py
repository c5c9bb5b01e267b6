"""`--channels-last`: the memory format of images, (N, C, H, W) stored as it is written or with the channels last."""

from __future__ import annotations

import time

import torch
from torch import nn

from sharpkit.core.precision import Mode, Precision
from sharpkit.core.task import Batch, Task
from sharpkit.engine.rehearsal import undisturbed
from sharpkit.errors import UsageError

_CLEARLY_FASTER = 0.85
_PIXELS = 16 * 16  # of smaller images either format is fast, and a measurement would be mostly noise
_SAMPLES = 32
_MOST_ROUNDS, _SECONDS = 5, 1.0


def pick_layout(
    wanted: str, model: nn.Module, task: Task, batch: Batch, precision: Mode, *, deterministic: bool = False
) -> tuple[str, list[str]]:
    """Give a model's convolutions their memory format; return `on` or `off`, and sentences on how it was chosen.

    Activations take their format from the weights. Sums are then formed in another order, so a run's numbers depend on
    the choice in their last bits. `auto` on a CPU times training passes of a few samples in both formats, in turn, and
    prefers the usual one unless the other is clearly faster; small images stay as they are. On a GPU convolutions in
    half precision need it to use the tensor cores.

    Args:
        wanted: `auto`, `on` or `off`.
        model: On the batch's device.
        task: Outputs and losses of the model.
        batch: One training batch.
        precision: Of the passes.
        deterministic: Whether `auto` must not measure.

    Raises:
        UsageError: If it is `on` and the model has no two-dimensional convolution.
    """
    images = batch.inputs.dim() == 4 and any(isinstance(module, nn.Conv2d) for module in model.modules())
    if wanted == "on" and not images:
        raise UsageError("channels-last is on, and the model has no convolution of images", "leave it out")
    if wanted == "off" or not images:
        return "off", []
    if wanted == "on":
        _store(model, torch.channels_last)
        return "on", ["channels-last: on, as given"]
    device: torch.device = batch.inputs.device
    if device.type == "cuda":
        chosen, how = precision != "off", "for convolutions in half precision on a GPU"
    elif device.type != "cpu" or deterministic or batch.inputs.shape[2] * batch.inputs.shape[3] < _PIXELS:
        return "off", []
    else:
        usual, last = _measured(model, task, batch.select_range(0, min(_SAMPLES, batch.size)), precision)
        chosen = last < _CLEARLY_FASTER * usual
        how = f"measured {1e3 * last:.1f} ms with, {1e3 * usual:.1f} ms without"
    if chosen:
        _store(model, torch.channels_last)
    answer = "on" if chosen else "off"
    return answer, [f"channels-last: {answer} ({how})"] if chosen or device.type == "cpu" else []


def _measured(model: nn.Module, task: Task, batch: Batch, precision: Mode) -> tuple[float, float]:
    """Return the shortest times of a pass in the usual format and with the channels last; the model is as it was."""
    times: dict[torch.memory_format, list[float]] = {torch.contiguous_format: [], torch.channels_last: []}
    mode = Precision(precision, batch.inputs.device)
    with undisturbed(model, batch.inputs.device):
        started = time.perf_counter()
        for number in range(_MOST_ROUNDS + 1):
            for form, taken in times.items():
                _store(model, form)
                start = time.perf_counter()
                with mode.autocast():
                    loss = task.losses(task.outputs(batch), batch).mean()
                loss.backward()  # pyright: ignore[reportUnknownMemberType]
                if number:
                    taken.append(time.perf_counter() - start)
                model.zero_grad()
            if number >= 2 and time.perf_counter() - started > _SECONDS:
                break
    _store(model, torch.contiguous_format)
    usual, last = times.values()
    return min(usual), min(last)


def _store(model: nn.Module, form: torch.memory_format) -> None:
    model.to(memory_format=form)  # pyright: ignore[reportCallIssue]

"""A pass before a run: what a user's model would fail at later it fails at now, and nothing is changed by it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sharpkit.core.backward import REENTRANT, is_of_reentrant_checkpoint
from sharpkit.core.task import Batch, Task, tensors
from sharpkit.core.undisturbed import undisturbed
from sharpkit.errors import InputError, SharpkitError, one_line


def materialise(model: nn.Module, task: Task, batch: Batch) -> None:
    """Let lazy layers take their shapes from a batch; other models are left alone."""
    lazy = any(is_lazy(value) for value in (*model.parameters(), *model.buffers()))
    if lazy:
        training = model.training
        model.eval()
        with torch.no_grad():
            _outputs(task, batch)
        model.train(training)


def rehearse(model: nn.Module, task: Task, batch: Batch, classes: int) -> None:
    """Run the model forward in evaluation mode, forward and backward in training mode.

    Args:
        model: On the batch's device.
        task: Outputs and losses of the model.
        batch: A training batch as the run will see it.
        classes: How many outputs a sample needs.

    Raises:
        InputError: If the model raises, or its outputs are not what the loss needs.
    """
    if not any(True for _ in model.parameters()):
        raise InputError("the model has no parameters", "give a model that can be trained")
    for name, param in model.named_parameters():
        if param.is_complex():
            raise InputError(
                f"the model's parameter {name} is complex, allowed are real ones",
                "store torch.view_as_real(p) and call torch.view_as_complex in forward()",
            )
    with undisturbed(model, batch.device):
        for training in (False, True):
            model.train(training)
            with torch.set_grad_enabled(training):
                outputs = _outputs(task, batch)
            _check(outputs, len(batch.targets), classes)
        _backward(model, task, outputs, batch)


def _outputs(task: Task, batch: Batch) -> Tensor:
    shape = tuple(next(tensors(batch.inputs)).shape)
    try:
        return task.outputs(batch)
    except SharpkitError:
        raise
    except Exception as error:
        told = f"{type(error).__name__}: {one_line(error)}"
        raise InputError(
            f"the model fails on inputs of shape {shape[1:]}, in a batch of {shape[0]}: {told}",
            "correct the model, or give another --model, --data or --batch-size",
        ) from error


def _check(outputs: Tensor, count: int, classes: int) -> None:
    if not isinstance(outputs, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"the model returns {type(outputs).__name__}, allowed is a tensor", "return the logits alone")
    if outputs.dim() != 2 or outputs.shape[0] != count or outputs.shape[1] < classes:
        raise InputError(
            f"the model returns shape {tuple(outputs.shape)} for a batch of {count} in {classes} classes",
            f"return ({count}, {classes}) logits",
        )
    if not outputs.is_floating_point():
        raise InputError(f"the model returns {outputs.dtype}, allowed are floating-point logits", "return the logits")
    if not bool(torch.isfinite(outputs).all()):
        raise InputError("the model's outputs are not finite before the first step", "correct the model or its weights")


def _backward(model: nn.Module, task: Task, outputs: Tensor, batch: Batch) -> None:
    trained = [param for param in model.parameters() if param.requires_grad]
    if not trained:
        return  # the optimizer says so in its own words
    if not outputs.requires_grad:
        raise InputError("the model's outputs do not depend on its parameters", "do not detach them")
    try:
        torch.autograd.grad(task.losses(outputs, batch).mean(), trained, allow_unused=True)
    except Exception as error:
        if is_of_reentrant_checkpoint(error):
            raise InputError(*REENTRANT) from error
        raise InputError(f"the model fails in the backward pass: {one_line(error)}", "correct the model") from error

"""`--compile`: training passes through torch.compile, everything else through the model itself.

With `--cuda-graphs` torch replays the compiled passes from graphs that the driver holds, which saves the time of
starting kernels one by one. What a replayed pass returns lies in memory that the next one writes to.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, cast

import torch
from torch import Tensor

from sharpkit.core.task import Batch, Supervised
from sharpkit.core.undisturbed import undisturbed
from sharpkit.errors import InputError, SharpkitError, UsageError, one_line

BACKEND = "inductor"

_GRAPHS = 64  # for every size of a batch, shard and micro-batch, with and without gradients
_SHOWN = 200


@dataclass(frozen=True)
class Compiled:
    """A supervised task whose training passes run compiled code.

    The code is another function on the same module, so that weights, buffers and their names are the module's own.
    Passes in evaluation mode are few, and those of single samples are there for what a layer does to a single sample:
    both go through the module.

    Args:
        task: The task as it is; its model is a module.
        fast: Its model, compiled.
        replayed: Whether its passes are replayed from graphs.
    """

    task: Supervised
    fast: Callable[..., Tensor]
    replayed: bool = False

    def outputs(self, batch: Batch) -> Tensor:
        """Return model(inputs)."""
        compiled = getattr(self.task.model, "training", False) and batch.size > 1
        if not compiled:
            return self.task.outputs(batch)
        outputs = replace(self.task, model=self.fast).outputs(batch)
        return outputs.clone() if self.replayed else outputs  # the step's report outlives the next pass

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the loss of every sample, (B,)."""
        return self.task.losses(outputs, batch)


def check_graphs(device: torch.device, *, compiles: bool) -> None:
    """Refuse graphs where there is nothing to replay, or nowhere to replay it.

    Raises:
        UsageError: If passes are not compiled, or the device is no CUDA device.
    """
    if not compiles:
        raise UsageError("cuda-graphs is set and compile is not", "give --compile --cuda-graphs")
    if device.type != "cuda":
        raise UsageError(f"cuda-graphs is set and the device is {device}", "give --device cuda, or leave it out")


def compiled(task: Supervised, batch: Batch, *, graphs: bool = False) -> tuple[Compiled, str]:
    """Return a task with compiled training passes, and a sentence on how long the compilation took.

    Every size of a batch gets code of its own, and random numbers are drawn as without compilation. So a run that goes
    on takes the same steps as one that was not interrupted.

    Args:
        task: Its model is compiled, in training mode.
        batch: What the first pass is made with, which compiles; the model comes back as it was.
        graphs: Whether the passes are replayed from CUDA graphs.

    Raises:
        InputError: If the model cannot be compiled, or not on this machine.
    """
    dynamo, functorch = _settings("torch._dynamo.config"), _settings("torch._functorch.config")
    dynamo.recompile_limit = max(_GRAPHS, dynamo.recompile_limit)
    functorch.donated_buffer = False  # or a pass can be differentiated once only, and some rules do so twice
    choices = {"fallback_random": True, **({"triton.cudagraphs": True} if graphs else {})}
    options: dict[str, Any] = {"options": choices} if BACKEND == "inductor" else {}
    start = time.perf_counter()
    model: Any = task.model
    through = cast("Any", torch.compile)
    try:
        with warnings.catch_warnings(action="ignore"), undisturbed(model, batch.device), torch.enable_grad():
            result = Compiled(task, through(model, backend=BACKEND, dynamic=False, **options), graphs)
            if graphs:
                _keep_gradients(model)
            model.train()
            result.losses(result.outputs(batch), batch).mean().backward()  # pyright: ignore[reportUnknownMemberType]
    except SharpkitError:
        raise
    except Exception as error:
        raise _refused(error) from error
    return result, f"compile: {time.perf_counter() - start:.1f} s for the first pass"


def _keep_gradients(model: Any) -> None:
    """Have every gradient copied as it is made, since a rule may hold one while the next pass runs."""
    for p in model.parameters():
        if p.requires_grad:
            p.register_post_accumulate_grad_hook(_copied)


def _copied(p: Tensor) -> None:
    if p.grad is not None:
        p.grad = p.grad.clone()


def _settings(module: str) -> Any:
    return import_module(module)


def _refused(error: Exception) -> InputError:
    """Return what to tell of a compilation that failed; its own message may have pages."""
    reasons = list(_reasons(error))
    tool = next((r for r in reasons if "CxxCompiler" in type(r).__name__ or "Triton" in type(r).__name__), None)
    reason = tool or reasons[-1]
    told = f"{type(reason).__name__}: {one_line(reason)[:_SHOWN]}"
    if tool is None:
        return InputError(f"the model cannot be compiled: {told}", "correct the model, or leave --compile out")
    what = "a C++ compiler, such as g++," if "Cxx" in type(tool).__name__ else "Triton"
    return InputError(f"torch.compile does not work here: {told}", f"install {what} or leave --compile out")


def _reasons(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__

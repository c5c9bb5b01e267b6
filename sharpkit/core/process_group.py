"""Whether a step goes with the process group of torch.distributed that it is taken in."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch.distributed as dist
from torch import nn

from sharpkit.core.comm import Comm
from sharpkit.errors import UsageError


def world_size() -> int:
    """Return the number of ranks of the default process group; 1 where there is none."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def check_process_group(model: nn.Module, loss: Any, comm: Comm | None, pair: Comm | None) -> None:
    """Refuse ranks that would drift apart, and models that reduce gradients by themselves.

    Args:
        model: The model that is trained.
        loss: The loss function or task, which may hold a model too.
        comm: The ranks that were given; None is none.
        pair: The pair of ranks that was given.

    Raises:
        UsageError: If so.
    """
    size = world_size()
    if size == 1:
        return
    for module in _modules(model, loss):
        if isinstance(module, nn.parallel.DistributedDataParallel):
            raise UsageError(
                f"the model is wrapped in DistributedDataParallel on {size} ranks, which averages gradients in every "
                "pass; allowed is the model itself, since a step decides which gradients are averaged",
                "give model.module and comm=sharpkit.Ranks()",
            )
        if _is_of_old_fsdp(module):
            raise UsageError(
                f"the model is wrapped in FullyShardedDataParallel (FSDP1) on {size} ranks, which flattens its "
                "parameters; allowed is fully_shard (FSDP2)",
                "call torch.distributed.fsdp.fully_shard(model) and give comm=sharpkit.Ranks()",
            )
    if comm is None and (pair is None or pair.size < size):
        raise UsageError(
            f"torch.distributed has a process group of {size} ranks and comm was not given, so the replicas would "
            "drift apart",
            "give comm=sharpkit.Ranks(), or comm=sharpkit.core.comm.SingleProcess() to train one model per rank",
        )


def wrappers(model: nn.Module) -> list[nn.parallel.DistributedDataParallel]:
    """Return the modules of a model that average gradients by themselves."""
    return [module for module in model.modules() if isinstance(module, nn.parallel.DistributedDataParallel)]


@contextmanager
def unreduced(modules: Sequence[nn.parallel.DistributedDataParallel]) -> Generator[None]:
    """Make a pass in which such modules, on a single rank, expect no gradients: it may be by some parameters only."""
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(module.no_sync())
        yield


def _modules(model: nn.Module, loss: Any) -> Iterator[nn.Module]:
    """Yield all modules of a model, and of those that a task keeps in its attributes."""
    yield from model.modules()
    for value in getattr(loss, "__dict__", {}).values():
        if isinstance(value, nn.Module) and value is not model:
            yield from value.modules()


def _is_of_old_fsdp(module: nn.Module) -> bool:
    kind = getattr(sys.modules.get("torch.distributed.fsdp"), "FullyShardedDataParallel", None)
    return kind is not None and isinstance(module, kind)

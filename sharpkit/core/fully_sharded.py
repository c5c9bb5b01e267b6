"""Passes of a model whose parameters are sharded by torch.distributed.fsdp.fully_shard (FSDP2).

Zhao et al. (2023), "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", and torch's documentation of
fully_shard.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sharpkit.core.comm import AscentScope, Comm
from sharpkit.core.shards import is_sharded
from sharpkit.errors import UsageError


class FullySharded:
    """What the oracle must know of such a model.

    A pass gathers the parameters of each part of the model and frees them again, and its backward pass leaves on every
    rank the shards of the mean of the gradients of all ranks. Some parts may stay gathered after a pass, the root after
    a forward pass for one: they would not see that the shards have changed since. So all are freed before and after
    every pass.

    Args:
        model: On whose parts, and on itself or what it wraps, fully_shard was called.
        params: The sharded parameters that are trained.
        comm: The ranks.
    """

    def __init__(self, model: nn.Module, params: Sequence[Tensor], comm: Comm) -> None:
        self.lost = False  # whether a pass was interrupted, under a torch that cannot go on after that
        self._modules = _fully_sharded(model)
        self._size = comm.size
        held = {id(p) for p in params}
        self._others = [p for p in model.parameters() if id(p) not in held]
        inner = {id(child) for module in self._modules for child in module.modules() if child is not module}
        self._roots = [module for module in self._modules if id(module) not in inner]
        for module in self._modules:
            # The default, which nobody can ask for. gloo has had versions that add up where they should average, so
            # the division is done apart from the sum where it may be gloo's.
            module.set_gradient_divide_factor(float(comm.size))
            if params[0].device.type == "cpu":
                module.set_force_sum_reduction_for_comms(True)

    @contextmanager
    def passing(self) -> Generator[None]:
        """Gather the shards as they are in the pass that follows, and free what was gathered at its end.

        Raises:
            UsageError: If a pass was interrupted before, under a torch that cannot go on after that.
        """
        if self.lost:
            raise UsageError(
                "an earlier pass of the fully sharded model was interrupted, and this torch cannot go on after that",
                "build model and optimizer anew and load their last state_dict, or use a torch whose FSDPModule has "
                "reset_iter_state",
            )
        self._free()
        try:
            yield
        except BaseException:
            for root in self._roots:
                if (reset := getattr(root, "reset_iter_state", None)) is not None:
                    reset()
                else:
                    self.lost = True
            raise
        finally:
            self._free()

    def backward(self, loss: Tensor, keep_graph: bool) -> None:
        """Leave in every trained parameter the gradient of the sum over the ranks of a loss, or None.

        The gradients are reduced inside of the backward pass, which cannot be told which parameters are wanted.
        """
        before = [p.grad for p in self._others]
        for p in self._others:
            p.grad = None
        try:
            with torch.enable_grad():
                summed = loss * self._size
            summed.backward(retain_graph=keep_graph)  # pyright: ignore[reportUnknownMemberType]
        finally:
            for p, grad in zip(self._others, before, strict=True):
                p.grad = grad

    def _free(self) -> None:
        for module in self._modules:
            module.reshard()


def free(model: nn.Module) -> None:
    """Free what is gathered of a fully sharded model, so that its parameters are the shards."""
    for module in _fully_sharded(model):
        module.reshard()


def sharding(
    model: nn.Module, names: Sequence[str], params: Sequence[Tensor], comm: Comm, scope: AscentScope
) -> FullySharded | None:
    """Return how to pass through a model if it is fully sharded, else None.

    Args:
        model: The model.
        names: Of the parameters.
        params: All that are trained.
        comm: The ranks that a batch lies on.
        scope: Whose gradient is climbed.

    Raises:
        UsageError: If it is sharded in a way that a step cannot be taken with.
    """
    plain = [name for name, p in zip(names, params, strict=True) if not is_sharded(p)]
    if len(plain) == len(params) and not _fully_sharded(model):
        return None
    inside = dict(model.named_parameters())
    if plain:
        _refuse_plain(plain[0], plain[0] in inside)
    if not _fully_sharded(model):
        raise UsageError(
            "the parameters are DTensors of a model that was not given to fully_shard()",
            "call torch.distributed.fsdp.fully_shard(model), or give the model that it was called on",
        )
    for name, p in zip(names, params, strict=True):
        _check_layout(name, p, params[0])
    _check_ranks(params[0], comm, scope)
    return FullySharded(model, params, comm)


def _fully_sharded(model: nn.Module) -> list[Any]:
    """Return the parts of a model that fully_shard was called on; who did so has imported it."""
    kind = getattr(sys.modules.get("torch.distributed.fsdp"), "FSDPModule", None)
    return [] if kind is None else [module for module in model.modules() if isinstance(module, kind)]


def _refuse_plain(name: str, in_model: bool) -> None:
    if not in_model:
        raise UsageError(
            "the model is fully sharded, and the base optimizer holds the parameters that it had before",
            "build the base optimizer after fully_shard(model) and before any pass of it",
        )
    raise UsageError(
        f"parameter {name} is not sharded, and others are; allowed are all or none",
        "call fully_shard on the model itself after its parts",
    )


def _check_layout(name: str, param: Any, first: Any) -> None:
    module: Any = sys.modules["torch.distributed.tensor"]
    *copies, shards = param.placements
    if type(shards) is not module.Shard or not all(copy.is_replicate() for copy in copies):
        raise UsageError(
            f"parameter {name} lies as {tuple(param.placements)}, allowed are (Shard,) and (Replicate, Shard)",
            "shard by fully_shard alone, without tensor parallelism",
        )
    if param.device_mesh != first.device_mesh:
        raise UsageError(
            f"parameter {name} lies on other ranks than the first one", "call every fully_shard with the same mesh"
        )
    if param.device.type != param.device_mesh.device_type:
        raise UsageError(
            f"parameter {name} is kept on {param.device.type} and used on {param.device_mesh.device_type}",
            "leave the offload policy out",
        )


def _check_ranks(param: Any, comm: Comm, scope: AscentScope) -> None:
    ranks = param.device_mesh.size()
    if ranks != comm.size:
        raise UsageError(
            f"the parameters are sharded over {ranks} ranks, and comm has {comm.size}", "give comm=Ranks() of all ranks"
        )
    if scope == "local":
        raise UsageError(
            "ascent_scope is local, and the parameters are sharded: no rank has all of a perturbation",
            "use ascent_scope='global', or msam for a perturbation of every part of the batch",
        )

"""What is minimised: a batch of samples and the per-sample losses of a model on it.

This is the only definition of "the loss"; training and every diagnostic use it.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from sharpkit.core.randomness import RandomState, of_stored
from sharpkit.core.returned import check_not_broadcast, check_outputs
from sharpkit.errors import UsageError

Tree = Any
"""A tensor, or a tuple, list or dict of trees; every tensor has the samples along its first axis."""

LossFunction = Callable[..., Tensor]
"""`(outputs, targets, reduction="none") -> (B,)`, as the losses of torch.nn.functional are."""


def map_tensors(function: Callable[[Tensor], Tensor], tree: Tree) -> Tree:
    """Apply a function to every tensor of a tree and leave everything else as it is."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, Mapping):
        items = cast("Mapping[Any, Tree]", tree).items()
        return {key: map_tensors(function, value) for key, value in items}
    if isinstance(tree, list | tuple):
        values = [map_tensors(function, value) for value in cast("Sequence[Tree]", tree)]
        return values if isinstance(tree, list) else tuple(values)
    return tree


def tensors(tree: Tree) -> Iterator[Tensor]:
    """Yield every tensor of a tree."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for value in cast("Mapping[Any, Tree]", tree).values():
            yield from tensors(value)
    elif isinstance(tree, list | tuple):
        for value in cast("Sequence[Tree]", tree):
            yield from tensors(value)


@dataclass
class Batch:
    """Samples that are evaluated together.

    Args:
        inputs: What the model is called with, (B, ...) tensors.
        targets: What the loss compares with, (B, ...) tensors.
        indices: (B,) stable sample numbers, for rules that remember samples.
        randomness: The random state of the batch's first evaluation; later ones replay it.
        whole: The size of the batch that these samples were taken from, to count fractions of a gradient; None if
            they are a batch of their own.
        reference: What an auxiliary loss compares the outputs with, (B, ...) tensors; None adds nothing to the loss.
        parts: Of a batch that lies on several ranks, how many of its samples each has; None if all are here.
        stands_for: How many samples on all ranks together are counted for each of these, where every rank has a batch
            of its own.
    """

    inputs: Tree
    targets: Tree
    indices: Tensor | None = None
    randomness: RandomState | None = None
    whole: int | None = None
    reference: Tree | None = None
    parts: Sequence[int] | None = None
    stands_for: float = 1.0

    @property
    def count(self) -> int:
        """The number of samples on all ranks together."""
        return self.size if self.parts is None else sum(self.parts)

    @property
    def share(self) -> float:
        """The part of its whole batch that this is."""
        return 1.0 if self.whole is None else self.count / self.whole

    @property
    def size(self) -> int:
        """The number of samples B."""
        first = self.inputs if isinstance(self.inputs, Tensor) else next(tensors(self.inputs), None)
        if first is None or first.dim() == 0:
            raise UsageError("a batch needs tensors with samples along the first axis", "give (inputs, targets)")
        return first.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the inputs are."""
        return next(tensors(self.inputs)).device

    def select(self, rows: Tensor, parts: Sequence[int] | None = None) -> Batch:
        """Return the samples at the positions `rows`, (b,) integers; they draw fresh randomness.

        Args:
            rows: Of the samples that lie here.
            parts: How many are selected on every rank, where the batch lies on several.
        """
        return Batch(
            map_tensors(lambda t: t[rows], self.inputs),
            map_tensors(lambda t: t[rows], self.targets),
            None if self.indices is None else self.indices[rows],
            whole=self.whole or self.count,
            reference=map_tensors(lambda t: t[rows], self.reference),
            parts=parts,
            stands_for=self.stands_for,
        )

    def split(self, pieces: int) -> list[Batch]:
        """Cut the batch into consecutive pieces whose sizes differ by at most one, the larger ones first.

        A batch of fewer samples than `pieces` gives one piece a sample; of one on several ranks some may lie elsewhere.
        """
        pieces = min(pieces, self.count)
        if pieces <= 1:
            return [self]
        everywhere = [sizes(part, pieces) for part in self.parts] if self.parts is not None else None
        bounds = itertools.pairwise(itertools.accumulate(sizes(self.size, pieces), initial=0))
        return [
            self.select_range(start, stop, None if everywhere is None else [part[i] for part in everywhere])
            for i, (start, stop) in enumerate(bounds)
        ]

    def part_of(self, rank: int, parts: Sequence[int]) -> Batch:
        """Return what one rank has of the batch where it lies on several: consecutive samples, `parts` of each."""
        start = sum(parts[:rank])
        return self.select_range(start, start + parts[rank], parts)

    def select_range(self, start: int, stop: int, parts: Sequence[int] | None = None) -> Batch:
        """Return the samples from `start` up to `stop` as views; `parts` is how many they are on every rank."""
        return Batch(
            map_tensors(lambda t: t[start:stop], self.inputs),
            map_tensors(lambda t: t[start:stop], self.targets),
            None if self.indices is None else self.indices[start:stop],
            whole=self.whole or self.count,
            reference=map_tensors(lambda t: t[start:stop], self.reference),
            parts=parts,
            stands_for=self.stands_for,
        )

    def pack(self) -> dict[str, Any]:
        """Return a copy as plain data that a checkpoint can hold."""
        return {
            "inputs": map_tensors(torch.clone, self.inputs),
            "targets": map_tensors(torch.clone, self.targets),
            "indices": self.indices,
            "randomness": self.randomness,
            "whole": self.whole,
            "reference": map_tensors(torch.clone, self.reference),
            "parts": None if self.parts is None else list(self.parts),
            "stands_for": self.stands_for,
        }

    @staticmethod
    def unpack(packed: Mapping[str, Any]) -> Batch:
        """Return the batch that `pack` stored."""
        batch = Batch(**packed)
        batch.randomness = None if batch.randomness is None else of_stored(batch.randomness)
        return batch

    @staticmethod
    def of(given: Any) -> Batch:
        """Return a new batch, not yet evaluated, of `(inputs, targets)`, `(inputs, targets, indices)` or a batch.

        Raises:
            UsageError: If `given` is none of these.
        """
        if isinstance(given, Batch):
            return Batch(given.inputs, given.targets, given.indices, parts=given.parts)
        kind = type(given).__name__
        parts: list[Any] = list(given) if kind in ("tuple", "list") else []
        if len(parts) in (2, 3):
            return Batch(*parts)
        raise UsageError(
            f"step() was given {kind}, allowed are (inputs, targets), "
            "(inputs, targets, indices), a Batch, or a closure",
            "call opt.step((inputs, targets))",
        )


def sizes(count: int, pieces: int) -> list[int]:
    """Return the sizes of consecutive pieces that differ by at most one, the larger ones first."""
    return [count // pieces + (i < count % pieces) for i in range(pieces)]


def portion(count: int, rank: int, ranks: int, shards: int = 1) -> tuple[Tensor, list[int]]:
    """Return which samples of a batch a rank has, (b,) positions, and how many every rank has.

    Of every shard, in the order of the batch, every rank has its consecutive part, so that the shards of all ranks
    together are those that one process would make.

    Args:
        count: Samples of the whole batch.
        rank: Which of the ranks.
        ranks: How many there are.
        shards: That the batch will be cut into.
    """
    starts = itertools.accumulate(sizes(count, shards), initial=0)
    mine: list[Tensor] = []
    parts = [0] * ranks
    for start, size in zip(starts, sizes(count, shards), strict=False):
        pieces = sizes(size, ranks)
        first = start + sum(pieces[:rank])
        mine.append(torch.arange(first, first + pieces[rank]))
        parts = [a + b for a, b in zip(parts, pieces, strict=True)]
    return torch.cat(mine), parts


def joined(batches: Sequence[Batch]) -> Batch:
    """Return the samples of several batches, of inputs and targets of one form, as one batch."""
    if len(batches) == 1:
        return batches[0]
    numbers = [b.indices for b in batches if b.indices is not None]
    indices = torch.cat(numbers) if len(numbers) == len(batches) else None
    return Batch(_together([b.inputs for b in batches]), _together([b.targets for b in batches]), indices)


def _together(trees: Sequence[Tree]) -> Tree:
    columns = zip(*(tensors(tree) for tree in trees), strict=True)
    return map_tensors(lambda _: torch.cat(next(columns)), trees[0])


class Task(Protocol):
    """The model's outputs on a batch and their per-sample losses."""

    def outputs(self, batch: Batch) -> Tensor:
        """Return the model's outputs, (B, ...)."""
        ...

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the loss of every sample, (B,)."""
        ...


@dataclass(frozen=True)
class Supervised:
    """A model compared with targets by a loss function.

    Losses with more axes than the samples' (per token, per pixel) are averaged over those axes.

    Args:
        model: Called with the batch's inputs; a dict is given as keyword arguments.
        loss: `(outputs, targets, reduction="none") -> (B, ...)`.
    """

    model: Callable[..., Tensor]
    loss: LossFunction

    def outputs(self, batch: Batch) -> Tensor:
        """Return model(inputs)."""
        if isinstance(batch.inputs, Mapping):
            return self.model(**cast("Mapping[str, Any]", batch.inputs))
        return self.model(batch.inputs)

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the loss of every sample, (B,).

        Raises:
            UsageError: If the loss does not return one value a sample.
        """
        check_outputs(outputs)
        losses = self.loss(outputs, batch.targets, reduction="none")
        if not isinstance(losses, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UsageError(
                f"the loss returned {type(losses).__name__}, allowed is a tensor (B,)",
                "end it with return losses, one for each sample",
            )
        if losses.dim() == 0 or losses.shape[0] != batch.size:
            raise UsageError(
                f"the loss returned shape {tuple(losses.shape)} for a batch of {batch.size}, allowed is (B,)",
                'it must honour reduction="none", as torch.nn.functional.cross_entropy does',
            )
        if losses.dim() > 1:
            check_not_broadcast(outputs, batch.targets, losses)
        return losses.flatten(1).mean(1) if losses.dim() > 1 else losses


def as_task(model: Callable[..., Tensor], loss: LossFunction | Task) -> Task:
    """Return `loss` itself if it is a task, else the supervised task of model and loss."""
    if isinstance(getattr(loss, "outputs", None), Callable) and isinstance(getattr(loss, "losses", None), Callable):
        return cast("Task", loss)
    if not callable(loss) or not _takes_reduction(loss):
        raise UsageError(
            f"loss is {getattr(loss, '__name__', type(loss).__name__)}, allowed are a function (outputs, targets, "
            'reduction="none") -> (B,) and a Task',
            "give torch.nn.functional.cross_entropy in place of torch.nn.CrossEntropyLoss(), for example",
        )
    return Supervised(model, loss)


def _takes_reduction(function: Callable[..., Any]) -> bool:
    """Return whether a function has a parameter `reduction`, or any; True where Python cannot tell."""
    called = function.forward if isinstance(function, nn.Module) else function
    try:
        parameters = inspect.signature(called).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(p.name == "reduction" or p.kind is p.VAR_KEYWORD for p in parameters)

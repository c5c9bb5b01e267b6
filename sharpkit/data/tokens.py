"""Samples whose inputs are token numbers, made of texts once and held on the device."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from sharpkit.core.task import Batch
from sharpkit.data.augment import PLAIN, Augment
from sharpkit.data.dataset import Dataset, cut_test
from sharpkit.data.part import ALL, Plan, Share, as_one_batch
from sharpkit.data.text import Corpus, Texts
from sharpkit.errors import UsageError

_AT_ONCE = 2**14  # tokens of a pass without gradients
_MASK = "attention_mask"


class Tokenizer(Protocol):
    """Makes token numbers of texts, as one model wants them."""

    @property
    def padding(self) -> Mapping[str, int]:
        """What fills a shorter text up, for every field."""
        ...

    @property
    def longest(self) -> int:
        """The most tokens that the model takes."""
        ...

    def __call__(
        self, first: Sequence[str], second: Sequence[str] | None, length: int
    ) -> Mapping[str, Sequence[Sequence[int]]]:
        """Return for every field the numbers of each text or pair, cut to a length, not filled up."""
        ...


@dataclass(frozen=True)
class Tokens:
    """Token numbers and what belongs to them, filled up at the end, with their targets and stable sample numbers.

    A batch is a dict of (B, L) tensors, with L the longest text of the batch, and has an attention mask, (B, L), that
    is 1 on the text and 0 behind it.

    Args:
        fields: By name, (N, L) with L the longest text of all.
        lengths: (N,) tokens of each text, on the CPU, so that no batch waits for the device.
        targets: (N,) class numbers, or numbers to be predicted.
        indices: (N,) sample numbers.
        even: Whether every batch is as long as the longest text of all, so that compiled code sees one shape.
    """

    fields: Mapping[str, Tensor]
    lengths: Tensor
    targets: Tensor
    indices: Tensor
    even: bool = False

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def shape(self) -> tuple[int, ...]:
        """(L,) tokens of the longest text."""
        return (next(iter(self.fields.values())).shape[1],)

    def take(self, rows: Tensor) -> Tokens:
        """Return the samples at the given positions."""
        here = rows.to(self.targets.device, non_blocking=True)
        return replace(
            self,
            fields={name: values[here] for name, values in self.fields.items()},
            lengths=self.lengths[rows.cpu()],
            targets=self.targets[here],
            indices=self.indices[here],
        )

    def relabelled(self, targets: Tensor) -> Tokens:
        """Return the same samples with other targets."""
        return replace(self, targets=targets)

    def to(self, device: torch.device) -> Tokens:
        """Return the samples on a device."""
        fields = {name: values.to(device) for name, values in self.fields.items()}
        return replace(self, fields=fields, targets=self.targets.to(device), indices=self.indices.to(device))

    def batches(self, plan: Plan, augment: Augment = PLAIN, share: Share = ALL) -> Iterator[Batch]:
        """Yield the batches of a plan, or a share of every one, as the model sees them; texts are not augmented."""
        device = self.targets.device
        for all_rows, _ in plan:
            rows, _, parts = share.of(all_rows)
            here, lengths = rows.to(device, non_blocking=True), self.lengths[rows]
            width = self.shape[0] if self.even or not len(rows) else int(lengths.max())
            inputs = {name: values[here, :width].long() for name, values in self.fields.items()}
            inputs[_MASK] = (torch.arange(width) < lengths[:, None]).long().to(device, non_blocking=True)
            yield Batch(inputs, self.targets[here], self.indices[here], parts=parts)

    def whole(self) -> Plan:
        """Return the plan of all samples for a pass without gradients, the short ones first."""
        size = max(1, _AT_ONCE // max(1, self.shape[0]))
        order = torch.argsort(self.lengths, stable=True)
        return [(order[start : start + size], 0) for start in range(0, len(self), size)]

    def together(self) -> Batch:
        """Return all samples as one batch."""
        return as_one_batch(self)

    def checksum(self, start: int) -> int:
        """Continue a CRC-32 with every token and target, in their order."""
        for tensor in (*self.fields.values(), self.lengths, self.targets):
            start = zlib.crc32(np.ascontiguousarray(tensor.cpu().numpy()).data.cast("B"), start)
        return start


def tokenised(corpus: Corpus, tokenizer: Tokenizer, length: int, *, even: bool = False) -> Dataset:
    """Return a data set of token numbers.

    Args:
        corpus: Its texts.
        tokenizer: Of the model that will see them.
        length: Tokens of a text or pair at most; of a longer one the end is cut off, of a pair that of the longer text.
        even: Whether every batch is to have the same length.

    Raises:
        UsageError: If the model does not take that many tokens.
    """
    if length > tokenizer.longest:
        raise UsageError(
            f"max-length is {length}, the model takes {tokenizer.longest} tokens at most",
            f"give --max-length {tokenizer.longest}",
        )
    train = _tokens(corpus.train, tokenizer, length, even)
    train, test = (train, _tokens(corpus.test, tokenizer, length, even)) if corpus.test else cut_test(train)
    further = {name: _tokens(texts, tokenizer, length, even) for name, texts in corpus.further.items()}
    return Dataset(corpus.name, train, test, corpus.classes, metrics=corpus.metrics, further=further)


def _tokens(texts: Texts, tokenizer: Tokenizer, length: int, even: bool) -> Tokens:
    made = tokenizer(texts.first, texts.second, length)
    lengths = [len(numbers) for numbers in next(iter(made.values()))]
    width = max(lengths)
    fields: dict[str, Tensor] = {}
    for name, every in made.items():
        filled = np.full((len(every), width), tokenizer.padding[name], dtype=np.int32)
        for row, numbers in zip(filled, every, strict=True):
            row[: len(numbers)] = numbers
        fields[name] = torch.from_numpy(filled)  # pyright: ignore[reportUnknownMemberType]
    return Tokens(fields, torch.tensor(lengths), texts.targets, torch.arange(len(texts)), even)

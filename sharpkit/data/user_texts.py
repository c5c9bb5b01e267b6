"""Labelled texts that a user's function returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from sharpkit.data.text import Corpus, Texts, class_numbers
from sharpkit.errors import InputError

_ALLOWED = (
    "allowed are (texts, labels), ((texts, labels), (test texts, test labels)) and a Corpus, where a text is a string "
    "or a pair of strings"
)
_REGRESSION = ("pearson", "spearman")


def holds_texts(returned: Any) -> bool:
    """Return whether what a function returned is made of texts: the first thing in it that is no list is a string."""
    while _is_list(returned) and len(returned):
        returned = returned[0]
    return isinstance(returned, str | Corpus)


def texts_from_user(name: str, returned: Any) -> Corpus:
    """Return the texts that a user's function gave.

    Args:
        name: For the run directory.
        returned: A `Corpus`; `(texts, labels)`, of which a third of every class becomes the test set; or
            `((texts, labels), (test texts, test labels))`. A text is a string, or a pair of strings. Labels are names
            of classes, class numbers 0, 1, ..., or, if they are floats, numbers to be predicted.

    Raises:
        InputError: If it is none of these.
    """
    if isinstance(returned, Corpus):
        return returned
    if not _is_list(returned) or len(returned) != 2 or not all(_is_list(part) for part in returned):
        raise InputError(f"the data function {name} returned other texts: {_ALLOWED}", "return (texts, labels)")
    split = len(returned[1]) > 0 and _is_list(returned[1][0])  # labels are flat
    parts = list(returned) if split else [returned]
    if not all(_is_list(part) and len(part) == 2 and all(_is_list(column) for column in part) for part in parts):
        raise InputError(f"the data function {name} returned other texts: {_ALLOWED}", "return (texts, labels)")
    labels = [_plain(part[1]) for part in parts]
    numbers, classes = _targets(name, labels)
    made = [_texts(name, part[0], targets) for part, targets in zip(parts, numbers, strict=True)]
    if len({texts.second is None for texts in made}) > 1:
        raise _mixed(name)
    if not split and (classes == 1 or int(numbers[0].bincount().max()) < 2):
        few = "labels are numbers to be predicted" if classes == 1 else f"{len(made[0])} texts are too few"
        raise InputError(
            f"{name}: {few}, and no test set can be cut from them",
            "return ((texts, labels), (test texts, test labels))",
        )
    metrics = _REGRESSION if classes == 1 else ("acc",)
    return Corpus(name, made[0], made[1] if split else None, classes, metrics)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray | Tensor) and value.ndim > 0)


def _plain(column: Any) -> list[Any]:
    """Return the values of a list, an array or a tensor as Python has them."""
    plain: list[Any] = cast("Any", column).tolist() if isinstance(column, np.ndarray | Tensor) else list(column)
    return [value.item() if isinstance(value, np.generic | Tensor) else value for value in plain]


def _texts(name: str, given: Any, targets: Tensor) -> Texts:
    texts = [tuple(_plain(text)) if _is_list(text) else text for text in _plain(given)]
    if len(texts) != len(targets) or not texts:
        raise InputError(
            f"{name}: there are {len(texts)} texts and {len(targets)} labels", "return one label for every text"
        )
    if all(isinstance(text, str) for text in texts):
        return Texts(cast("tuple[str, ...]", tuple(texts)), None, targets)
    place = next((i for i, text in enumerate(texts) if not isinstance(text, str) and not _is_pair(text)), None)
    if place is not None:
        raise InputError(
            f"{name}: text {place} is {texts[place]!r:.60}, allowed are strings, or pairs of strings", "return strings"
        )
    if any(isinstance(text, str) for text in texts):
        raise _mixed(name)
    first, second = zip(*cast("Sequence[tuple[str, str]]", texts), strict=True)
    return Texts(first, second, targets)


def _mixed(name: str) -> InputError:
    return InputError(f"{name}: some texts are pairs, and some are not", "return texts of one kind")


def _is_pair(text: Any) -> bool:
    return isinstance(text, tuple) and [type(part) for part in cast("tuple[Any, ...]", text)] == [str, str]


def _targets(name: str, columns: list[list[Any]]) -> tuple[list[Tensor], int]:
    """Return the targets of every part, and the number of classes, 1 where they are numbers to be predicted."""
    every = [label for column in columns for label in column]
    if every and all(isinstance(label, str) for label in every):
        known = class_numbers(columns[0])
        foreign = next((label for label in every if label not in known), None)
        if foreign is not None:
            raise InputError(f"{name}: the class {foreign!r} is not in the training texts", "add texts of it")
        made = [torch.tensor([known[label] for label in column], dtype=torch.long) for column in columns]
    elif every and all(isinstance(label, int | float) for label in every):
        made = [torch.tensor(column) for column in columns]
        if any(part.is_floating_point() for part in made):
            return _finite(name, [part.float() for part in made]), 1
        made = [part.long() for part in made]
    else:
        raise InputError(f"{name}: labels are neither all names nor all numbers", "return strings, or whole numbers")
    classes = int(max(part.max() for part in made if len(part))) + 1
    if min(int(part.min()) for part in made if len(part)) < 0 or not 2 <= classes <= len(every):
        raise InputError(
            f"{name}: {len(every)} texts have class numbers up to {classes - 1}, allowed are 0, 1, ..., at least two "
            "classes and no more than texts",
            "number the classes 0, 1, ...",
        )
    return made, classes


def _finite(name: str, parts: list[Tensor]) -> list[Tensor]:
    if not all(bool(torch.isfinite(part).all()) for part in parts):
        raise InputError(f"{name}: labels hold numbers that are not finite", "remove those texts")
    return parts

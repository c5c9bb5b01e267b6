"""The grammar of `--augment`: a kind, and for cutout the size of its square and how often it is applied.

This module does not import torch, so that a wrong value is refused at once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sharpkit.errors import UsageError, check_range

KINDS = ("auto", "none", "basic", "cutout")
GRAMMAR = "auto, none, basic and cutout[:size=PIXELS][:prob=P]"


@dataclass(frozen=True)
class Augmentation:
    """An augmentation as `--augment` names it.

    Args:
        kind: One of `KINDS`.
        size: Side of the square that cutout blanks, in pixels; None for the data set's.
        prob: Probability with which cutout is applied to an image, in (0, 1].
    """

    kind: str
    size: int | None = None
    prob: float = 1.0

    @property
    def text(self) -> str:
        """The canonical form, without what is the default."""
        size = "" if self.size is None else f":size={self.size}"
        return f"{self.kind}{size}" + ("" if self.prob == 1 else f":prob={self.prob!r}")


def parse_augmentation(text: str) -> Augmentation:
    """Parse `KIND[:key=value]...`, for example `cutout:size=16:prob=0.5`.

    Raises:
        UsageError: If the kind or a parameter is unknown, given twice or outside its range.
    """
    kind, *items = (item.strip() for item in text.split(":"))
    if kind not in KINDS:
        raise UsageError(f"augment is {text!r}, allowed are {GRAMMAR}", "use --augment auto")
    given: dict[str, str] = {}
    for item in items:
        key, mark, value = (part.strip() for part in item.partition("="))
        if kind != "cutout" or not mark or key not in ("size", "prob"):
            raise UsageError(
                f"augment is {text!r} with {item!r}, allowed are {GRAMMAR}", "use --augment cutout:size=16"
            )
        if key in given:
            raise UsageError(f"augment is {text!r}, which sets {key} twice", "leave one of them out")
        given[key] = value
    return Augmentation(kind, _size(given.get("size")), _prob(given.get("prob", "1")))


def _size(text: str | None) -> int | None:
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,6}", text) or int(text) < 1:
        raise UsageError(f"cutout's size is {text!r}, allowed are 1, 2, ... pixels", "use --augment cutout:size=16")
    return int(text)


def _prob(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise UsageError(f"cutout's prob is {text!r}, allowed is a number in (0, 1]", "use prob=0.5") from None
    check_range("cutout's prob", value, 0, 1, open_low=True)
    return value

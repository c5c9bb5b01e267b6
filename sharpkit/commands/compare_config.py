"""The options of `sharpkit compare` beside those of training; this module does not import torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from sharpkit.engine.config import option
from sharpkit.errors import UsageError, check_count, check_range

PANELS: dict[str, tuple[str, ...]] = {
    "Comparison": ("seeds", "baseline", "metric", "budget", "select", "sharpness", "jobs"),
    "Paper": ("reproduce", "scale"),
    "Statistics": ("test", "correct", "ci", "require"),
}

SHARPNESS = ("lambda", "ratio", "trace", "worst")
"""What can be measured of final checkpoints."""


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """How runs are compared.

    Raises:
        UsageError: If a value is outside its range.
    """

    seeds: str = option("5", "A number of seeds, a list as 0,3,7 or a range as 2-6.")
    baseline: str | None = option(None, "The optimizer that others are compared with.", shown="the first")
    metric: str = option("acc,pct_sam,grads_seq,s_per_epoch", "Columns, at commas; the first one is tested.")
    budget: Literal["epochs", "grads", "seconds"] = option(
        "epochs",
        "The same for all: epochs; gradients in sequence, of which --epochs are those of two a step; or seconds, those "
        "of the baseline, by a pilot run of each.",
    )
    select: Literal["none", "val"] = option(
        "none", "val keeps of each grid the value of the best mean validation accuracy."
    )
    sharpness: str | None = option(None, "Columns of the final checkpoints: lambda,ratio,trace,worst.", shown="none")
    jobs: str = option("auto", "Processes; auto is one a CPU, with a thread each, and one on a GPU.")
    test: Literal["paired-t", "wilcoxon", "welch", "none"] = option("paired-t", "Test of the differences.")
    correct: Literal["holm", "bh", "none"] = option("holm", "Correction for the number of comparisons.")
    ci: float = option(0.95, "Level of the confidence intervals.")
    require: str | None = option(
        None, "Exit with 6 unless this holds: A>=B of means, A>B significantly; several at commas.", shown="none"
    )

    reproduce: str | None = option(
        None, "Run a published table, PAPER/TABLE, and print its numbers beside ours.", shown="none"
    )
    scale: float = option(1.0, "Fraction of the epochs and data of --reproduce.")

    def __post_init__(self) -> None:
        check_range("scale", self.scale, 0, 1, open_low=True)
        if self.scale != 1 and self.reproduce is None:
            raise UsageError(f"scale is {self.scale:g}, and there is no --reproduce to shrink", "leave --scale out")
        check_range("ci", self.ci, 0, 1, open_low=True, open_high=True)
        check_count("jobs", self.jobs, "auto", high=1024)
        for name in self.wanted_sharpness:
            if name not in SHARPNESS:
                raise UsageError(f"sharpness is {name!r}, allowed are {', '.join(SHARPNESS)}", "correct --sharpness")
        if not self.metrics:
            raise UsageError("metric is empty, at least one is needed", "use --metric acc")
        _ = self.requirements

    @property
    def metrics(self) -> list[str]:
        """The columns, those of sharpness last."""
        return list(dict.fromkeys([*_parts(self.metric), *self.wanted_sharpness]))

    @property
    def wanted_sharpness(self) -> list[str]:
        """What is measured of final checkpoints: what is asked for, also as a metric."""
        named = [name for name in _parts(self.metric) if name in SHARPNESS]
        return list(dict.fromkeys([*named, *_parts(self.sharpness or "")]))

    @property
    def requirements(self) -> list[tuple[str, str, str]]:
        """(A, `>=` or `>`, B) for every requirement."""
        found: list[tuple[str, str, str]] = []
        for text in _parts(self.require or ""):
            parts = re.fullmatch(r"\s*([^<>]+?)\s*(>=|>)\s*([^<>=]+?[^<>]*?)\s*", text)
            if parts is None:
                raise UsageError(f"require is {text!r}, allowed are A>=B and A>B", "write for example 'sampa>=sgd'")
            found.append((parts[1], parts[2], parts[3]))
        return found


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]

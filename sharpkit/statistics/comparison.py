"""A table of optimizers over seeds: means, spreads, runs that have no result, differences to the baseline."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from sharpkit.statistics.difference import Correction, Difference, TestName, adjusted, difference
from sharpkit.statistics.power import POWER, detectable

LEVEL = 0.05
"""The level at which a difference is called significant."""

Settings = tuple[tuple[str, str], ...]
"""Names and values of the options that differ between rows, beside the optimizer."""

Lost = Literal["diverged", "failed", "missing"]
"""Why a run has no result: its numbers were no longer finite, it ended with another error, or it is not there."""

LOST: tuple[Lost, ...] = ("diverged", "failed", "missing")


@dataclass(frozen=True)
class Group:
    """The runs of one optimizer with one setting, over seeds.

    Args:
        label: The optimizer, as it was asked for.
        settings: The varied options.
        values: Metric by name, a finite value by seed.
        lost: Why a seed has no value of the tested metric.
        note: The recipe that was chosen, where the label stands for several.
    """

    label: str
    settings: Settings
    values: Mapping[str, Mapping[int, float]]
    lost: Mapping[int, Lost] = field(default_factory=dict[int, Lost])
    note: str = ""

    def counts(self) -> dict[Lost, int]:
        """Return how many seeds were lost, for each reason."""
        found = Counter(self.lost.values())
        return {reason: found[reason] for reason in LOST}


@dataclass(frozen=True)
class Row:
    """A group with its statistics.

    Args:
        group: The runs.
        n: Seeds that have the tested metric.
        means: By metric.
        stds: Standard deviations over seeds, by metric; NaN for a single one.
        baseline: Whether the others are compared with it.
        difference: To the baseline of the same settings; None for the baseline itself and where there is none.
        p_adjusted: Of the difference, corrected for all comparisons of the table.
        detectable: The true difference that so many seeds show with probability 0.8 at the level of the table.
        reason: Why there is no difference; empty where there is one.
    """

    group: Group
    n: int
    means: Mapping[str, float]
    stds: Mapping[str, float]
    baseline: bool
    difference: Difference | None
    p_adjusted: float = math.nan
    detectable: float = math.nan
    reason: str = ""

    @property
    def planned(self) -> int:
        """Seeds that were asked for."""
        return self.n + len(self.group.lost)

    @property
    def significant(self) -> bool:
        """Whether the corrected p-value is below 0.05."""
        return self.p_adjusted < LEVEL


def compared(
    groups: Sequence[Group],
    baseline: str,
    metric: str,
    *,
    test: TestName = "paired-t",
    correction: Correction = "holm",
    level: float = 0.95,
) -> list[Row]:
    """Return a row for every group, with its difference to the baseline that has the same settings.

    A group without a result is a row too, and a baseline without one stays the baseline.

    Args:
        groups: In the order of the rows.
        baseline: The label of the baseline.
        metric: What is tested.
        test: See `difference`.
        correction: See `adjusted`; over all rows.
        level: Of the confidence intervals.
    """
    bases = {group.settings: group for group in groups if group.label == baseline}
    rows = [_row(group, bases.get(group.settings), metric, test, level) for group in groups]
    corrected = adjusted([row.difference.p if row.difference else math.nan for row in rows], correction)
    tested = sum(not math.isnan(p) for p in corrected)
    one = LEVEL if correction == "none" else LEVEL / max(1, tested)
    return [
        replace(
            row,
            p_adjusted=p,
            detectable=math.nan if row.difference is None else detectable(row.difference, test, one),
        )
        for row, p in zip(rows, corrected, strict=True)
    ]


def _row(group: Group, base: Group | None, metric: str, test: TestName, level: float) -> Row:
    own = group.values.get(metric, {})
    found, reason = None, ""
    if base is None:
        reason = "no baseline with these settings"
    elif base is not group:
        theirs = base.values.get(metric, {})
        if not own:
            reason = counted(0, group)
        elif not theirs:
            reason = f"of the baseline {base.label} {counted(0, base)}"
        else:
            found = difference(own, theirs, test=test, level=level)
    return Row(
        group=group,
        n=len(own),
        means={name: _mean(values) for name, values in group.values.items()},
        stds={name: _std(values) for name, values in group.values.items()},
        baseline=base is group,
        difference=found,
        reason=reason,
    )


def _mean(values: Mapping[int, float]) -> float:
    return float(np.mean(list(values.values()))) if values else math.nan


def _std(values: Mapping[int, float]) -> float:
    return float(np.std(list(values.values()), ddof=1)) if len(values) > 1 else math.nan


def counted(n: int, group: Group) -> str:
    """Return how many of the runs of a group have a result, and why the others have none."""
    total = n + len(group.lost)
    why = ", ".join(f"{count} {reason}" for reason, count in group.counts().items() if count)
    return f"{n} of {total} run{'s' * (total != 1)} {'has' if n == 1 else 'have'} a result" + (
        f" ({why})" if why else ""
    )


def sentence(row: Row, unit: str, digits: int = 2, *, corrected: bool = True) -> str:
    """Return what the difference means, in plain words.

    Args:
        row: Of a table.
        unit: Of the metric, such as `points`.
        digits: After the point.
        corrected: Whether the p-value is corrected for the number of comparisons.
    """
    told = _difference_told(row, unit, digits, corrected)
    if not row.group.lost or (row.reason and not row.n):
        return told
    return f"{told}; {counted(row.n, row.group)}"


def _difference_told(row: Row, unit: str, digits: int, corrected: bool) -> str:
    found = row.difference
    if row.baseline:
        return "the baseline"
    if found is None or not found.n:
        return row.reason if found is None else found.reason
    size = f"{found.mean:+.{digits}f} {unit}".rstrip()
    if math.isnan(found.p):
        return f"{size}; {found.reason}"
    interval = "" if math.isnan(found.low) else f" [{found.low:+.{digits}f}, {found.high:+.{digits}f}]"
    p = p_text(row.p_adjusted)
    told = f"{size}{interval}, {'p_adj' if corrected else 'p'} {p if p.startswith('<') else f'= {p}'}, {pairs(found)}"
    if row.significant:
        return told
    if math.isinf(row.detectable):
        more = "; so few cannot show any"
    elif math.isnan(row.detectable):
        more = ""
    else:
        enough = f"{row.detectable:.{digits}f} {unit}".rstrip()
        more = f"; a true {enough} would show with probability {POWER:g}"
    return f"no significant difference ({told}{more})"


def pairs(found: Difference) -> str:
    """Return of how many values a difference is."""
    if not found.paired:
        return f"{found.n} and {found.n_base} seeds"
    return f"{found.n} pair{'s' * (found.n != 1)}"


def p_text(p: float) -> str:
    """Return a p-value with two digits, or that it is very small."""
    if math.isnan(p):
        return ""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"
